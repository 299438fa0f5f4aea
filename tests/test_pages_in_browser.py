"""report.html in a real browser without a network: it fits a phone, fetches nothing, opens, copies, reads well."""

import re
import shutil

import pytest
from helpers import reports
from playwright.sync_api import sync_playwright

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
RECTANGLE = "part => { const r = part.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom] }"
NAMES = ("methods_fashion_mnist_lt", "compare_cifar100_lt")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="No browser: apt-get install chromium")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Where the page of each committed comparison lies."""
    folder = tmp_path_factory.mktemp("reports")
    return {name: reports.write(folder / name, reports.committed(name)).as_uri() for name in NAMES}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, addresses):
    """Opens a page offline in a new window; in the end nothing was fetched and the console has no error."""
    contexts, requests, complaints = [], [], []

    def open_page(name, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(addresses[name])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == [] and set(requests) <= set(addresses.values()) and len(requests) == len(contexts)


def unfold(page):
    for summary in page.locator("summary").all():
        summary.click()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_a_report_fits_its_window_and_shows_all_of_its_parts(name, device, opened):
    page, results = opened(name, **device), reports.committed(name)
    width = device["viewport"]["width"]
    assert page.locator("section table").first.locator("tbody tr").count() == len(results["methods"])
    sizes = page.locator("figure svg").evaluate_all(f"parts => parts.map({RECTANGLE})")
    assert len(sizes) == 3
    assert all(right - left > 0.7 * min(width, 500) and bottom - top > 200 for left, right, top, bottom in sizes)
    hashes = page.get_by_text(results["split_hashes"][0])
    assert not hashes.is_visible()
    unfold(page)
    assert hashes.is_visible()
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    parts = page.locator("h1, h2, p, pre, figure, .scroll, details")
    for left, right, _, _ in parts.evaluate_all(f"parts => parts.map({RECTANGLE})"):
        assert left >= 0 and right <= width + 0.5  # nor is anything cut off at the sides


@pytest.mark.slow
def test_on_a_phone_the_table_scrolls_under_the_names_of_its_methods(opened):
    page = opened(NAMES[0], **PHONE)
    box = page.locator(".scroll").first
    name, last = box.locator("tbody th").first, box.locator("thead th").last
    assert last.bounding_box()["x"] > 360
    box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
    assert name.bounding_box()["x"] == 0
    shown = last.bounding_box()
    assert shown["x"] >= name.bounding_box()["width"] and shown["x"] + shown["width"] <= 360.5


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(text, behind):
    """WCAG's ratio of two colors "rgb(r, g, b)"."""
    colors = [[int(part) for part in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", c).groups()] for c in (text, behind)]
    low, high = sorted(map(luminance, colors))
    return (high + 0.05) / (low + 0.05)


COLORS = """
() => [...document.querySelectorAll("body *")]
  .filter((part) => part.getClientRects().length && [...part.childNodes].some((n) => n.nodeType == 3 && n.data.trim()))
  .map((part) => {
    let behind = part;
    while (behind && /^rgba.*, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const style = getComputedStyle(part);
    return [part.closest("svg") ? style.fill : style.color, getComputedStyle(behind).backgroundColor, part.textContent];
  })
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_every_text_stands_out_from_what_is_behind_it(name, scheme, opened):
    page = opened(name, color_scheme=scheme, **DESKTOP)
    unfold(page)
    found = page.evaluate(COLORS)
    assert len(found) > 200
    for color, behind, text in found:
        assert contrast(color, behind) >= 4.5, (text, color, behind)
    assert (contrast(page.evaluate(COLORS)[0][1], "rgb(255, 255, 255)") > 10) == (scheme == "dark")


@pytest.mark.slow
def test_figures_keep_a_white_card_in_the_dark(opened):
    page = opened(NAMES[0], color_scheme="dark")
    for card in page.locator("figure > .scroll").all():
        assert card.evaluate("card => getComputedStyle(card).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.slow
def test_the_letters_of_a_figure_stay_legible_on_a_phone(opened):
    page = opened(NAMES[0], **PHONE)
    heights = page.locator("figure svg text").evaluate_all(
        "texts => texts.map((t) => t.getBoundingClientRect().height)"
    )
    assert len(heights) > 50 and min(heights) > 7


@pytest.mark.slow
def test_the_command_can_be_copied_at_a_click(opened):
    page, command = opened(NAMES[1]), reports.committed(NAMES[1])["command"]
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("getSelection().toString()") == command


@pytest.mark.slow
def test_without_scripts_there_is_no_button_and_all_else_works(opened):
    page = opened(NAMES[1], java_script_enabled=False)
    assert not page.locator("button").is_visible() and page.locator("pre").is_visible()
    unfold(page)
    assert page.get_by_text(reports.committed(NAMES[1])["split_hashes"][0]).is_visible()


@pytest.mark.slow
def test_printed_nothing_stays_folded_away_and_ink_is_dark(opened):
    page = opened(NAMES[1], color_scheme="dark")
    page.emulate_media(media="print")
    assert page.get_by_text(reports.committed(NAMES[1])["split_hashes"][0]).is_visible()
    color = page.locator("h1").evaluate("heading => getComputedStyle(heading).color")
    assert contrast(color, "rgb(255, 255, 255)") > 10
