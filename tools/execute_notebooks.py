"""Execute notebooks and store their outputs: `python tools/execute_notebooks.py [notebooks/01_quickstart.ipynb …]`.

Without a name all notebooks are executed. A notebook that fails is not changed.
"""

import argparse
import os
import pathlib

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# TensorFlow's libraries write lines past Python while they load. They describe the machine, not the code.
_KERNEL_OPTIONS = ["--IPKernelApp.capture_fd_output=False"]


def execute(path, folder=FOLDER, **constants):
    """The notebook in `path` with the outputs of a new kernel, run in `folder`.

    Args:
        path: the path of the notebook.
        folder: the folder in which the kernel works.
        **constants: values that replace those in the cell with the tag "parameters".
    """
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    unknown = [name for name in constants if f"\n{name} = " not in f"\n{cell.source}"]
    if unknown:
        raise ValueError(f"Constants must be in the tagged cell of {path}. Received: {unknown}")
    stored = cell.source
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in constants.items())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    client = NotebookClient(
        notebook,
        timeout=1200,
        record_timing=False,
        extra_arguments=_KERNEL_OPTIONS,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    cell.source = stored
    notebook.metadata = nbformat.from_dict(_METADATA)
    return notebook


def main():
    parser = argparse.ArgumentParser(description="Execute notebooks and store their outputs in them.")
    parser.add_argument("paths", nargs="*", type=pathlib.Path, help="all by default")
    for path in tqdm(parser.parse_args().paths or sorted(FOLDER.glob("*.ipynb")), unit="notebook"):
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main()
