"""A release: one version everywhere, and `constraints.txt`, which pins what README's commands and CI install."""

import configparser
import pathlib
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import keras_logit_adjust as kla

ROOT = pathlib.Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def parsed(text):
    return [Requirement(line) for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def requirements():
    """The libraries that setup.cfg names, with the tests' extra and all that it includes."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found, extras = parsed(config["options"]["install_requires"]), ["test"]
    while extras:
        found += parsed(config["options.extras_require"][extras.pop()])
        extras += [extra for own in found if own.name == "keras_logit_adjust" for extra in own.extras]
        found = [requirement for requirement in found if requirement.name != "keras_logit_adjust"]
    return found


def pins():
    return parsed((ROOT / "constraints.txt").read_text())


def holds(requirement, python):
    environment = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def versions_for(python):
    """`{library: version}` of the pins that hold for a Python."""
    held = [pin for pin in pins() if holds(pin, python)]
    assert len({canonicalize_name(pin.name) for pin in held}) == len(held)  # one version each
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in held}


def test_every_pin_is_one_exact_version():
    assert {specifier.operator for pin in pins() for specifier in pin.specifier} == {"=="}
    assert {len(pin.specifier) for pin in pins()} == {1}


@pytest.mark.parametrize("python", PYTHONS)
def test_what_setup_cfg_names_is_pinned_within_its_bounds(python):
    versions = versions_for(python)
    for requirement in requirements():
        if holds(requirement, python):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_libraries_with_names_that_are_not_promised_have_an_upper_bound():
    """`_keras.py` and `tf_distribute/_keras.py` take private names of these two."""
    bounds = {r.name: {s.operator for s in r.specifier} for r in requirements() if r.name in ("keras", "tensorflow")}
    assert bounds == {"keras": {">=", "<"}, "tensorflow": {">=", "<"}}


def test_the_commands_of_the_pages_install_the_pinned_versions():
    for page, number in (("README.md", 2), ("CONTRIBUTING.md", 1)):
        lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("python3 -m venv")]
        assert len(lines) == number
        assert all("pip install -q -c constraints.txt -e" in line for line in lines)


def test_the_version_is_that_of_the_newest_entry_and_of_the_citation():
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert newest == cited == kla.__version__
