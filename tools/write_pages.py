"""Write printed output of snippets and tables of results into README and docs: `python tools/write_pages.py [page …]`.

Without a page it writes all tables and runs no snippet. Read the changes before you keep them: tests compare the pages
with this output.
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
    """`text` with every marked table made again."""

    def table(match):
        return f"<!-- {match[1]}:begin -->\n{tests.table(match[1])}\n<!-- {match[1]}:end -->"

    return re.sub(r"<!-- (\S+):begin -->.*?<!-- \1:end -->", table, text, flags=re.DOTALL)


def with_printed(text, tests, name):
    """`text` with the output of its snippets, run in order."""
    namespace = {}

    def snippet(match):
        printed = tests.run(match[1], namespace, name)
        return f"```python\n{match[1]}```\n" + (f"```text\n{printed}```" if printed else "")

    return tests.SNIPPET.sub(snippet, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pages", nargs="*", type=pathlib.Path, help="pages whose snippets are run")
    pages, tests = parser.parse_args().pages, load_tests()
    for page in pages or tests.PAGES:
        text = with_tables(page.read_text(), tests)
        page.write_text(with_printed(text, tests, page.name) if pages else text)


if __name__ == "__main__":
    main()
