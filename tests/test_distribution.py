"""What is built for others: the wheel holds the package and its data, the source distribution all that tests need."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

pytest.importorskip("build")

ROOT = pathlib.Path(__file__).parents[1]
DATA = {"data/NOTICE", "data/banking77_lt.npz", "data/fashion_mnist_lt.npz", "compare/report_template.html"}
FOLDERS = ("benchmarks", "docs", "notebooks", "tests", "tools")
_LEFT_BEHIND = shutil.ignore_patterns(
    ".*", "build", "dist", "site", "*.egg-info", "__pycache__", "report", "figures", "*.pyc"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel, which is built from the source distribution beside it."""
    source, output = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    shutil.copytree(ROOT, source / "tree", ignore=_LEFT_BEHIND)
    if not (source / "tree" / "keras_logit_adjust").exists():
        pytest.skip("these tests run beside an installed package, without its source")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source / "tree")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-1000:]
    return output


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_holds_the_package_and_its_data_only(built):
    (path,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    code = {f"keras_logit_adjust/{p.relative_to(ROOT / 'keras_logit_adjust').as_posix()}" for p in modules()}
    assert names == code | {f"keras_logit_adjust/{name}" for name in DATA}


def modules():
    return (ROOT / "keras_logit_adjust").rglob("*.py")


def test_the_source_distribution_holds_what_its_tests_and_pages_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in FOLDERS:
        expected = {f"{folder}/{name}" for name in files_of(ROOT / folder) if "__pycache__" not in name}
        assert not {name for name in expected - names if "/." not in name}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "setup.cfg", "pyproject.toml", "mkdocs.yml"} <= names
