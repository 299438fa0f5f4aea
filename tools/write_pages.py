"""Write into README and docs what snippets print and what results on file say: `python tools/write_pages.py [page …]`.

Without a page all tables and no snippet. Read the difference before you keep it: tests compare with what is written.
"""

import argparse
import importlib.util
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def load_tests():
    spec = importlib.util.spec_from_file_location("test_pages", ROOT / "tests" / "test_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_tables(text, tests):
    """`text` with every marked table made anew."""

    def table(match):
        return f"<!-- {match[1]}:begin -->\n{tests.table(match[1])}\n<!-- {match[1]}:end -->"

    return re.sub(r"<!-- (\S+):begin -->.*?<!-- \1:end -->", table, text, flags=re.DOTALL)


def with_printed(text, tests, name):
    """`text` with what its snippets print, run in order."""
    namespace = {}

    def snippet(match):
        printed = tests.run(match[1], namespace, name)
        return f"```python\n{match[1]}```\n" + (f"```text\n{printed}```" if printed else "")

    return tests.SNIPPET.sub(snippet, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pages", nargs="*", type=pathlib.Path, help="pages whose snippets to run")
    pages, tests = parser.parse_args().pages, load_tests()
    for page in pages or tests.PAGES:
        text = with_tables(page.read_text(), tests)
        page.write_text(with_printed(text, tests, page.name) if pages else text)


if __name__ == "__main__":
    main()
