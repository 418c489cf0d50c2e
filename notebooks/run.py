"""Run every notebook here, headless: `run.py --reduced` to test, `--write` to publish.

`01_quickstart.ipynb` is `quickstart.py` with outputs. Edit the script, then `--write`.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

HERE = Path(__file__).parent


def script_of(path):
    """The script a notebook is made of, whose name lacks the number; may not exist."""
    return path.with_name(re.sub(r"^\d+_", "", path.stem) + ".py")


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def from_script(path):
    notebook = jupytext.read(path)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext's are random: no diff without a change
        cell.metadata = nbformat.from_dict({})
    return notebook


def run(path, *, write):
    script = script_of(path)
    notebook = nbformat.read(path, as_version=4)
    if script.exists():
        source = from_script(script)
        if not write and cells(source) != cells(notebook):
            return f"{path.name} is not {script.name}: `notebooks/run.py --write`"
        notebook = source
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except Exception as error:  # noqa: BLE001  the kernel's traceback is in its text
        return f"{path.name}: {error}"
    if write:
        notebook.metadata.pop("language_info", None)  # the Python version of the day
        nbformat.write(notebook, path)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--reduced", action="store_true", help="small; write nothing")
    mode.add_argument("--write", action="store_true", help="in full; keep the outputs")
    args = parser.parse_args()
    os.environ["LSQFLOW_REDUCED"] = "1" if args.reduced else "0"

    paths = sorted(HERE.glob("*.ipynb"))
    failures = [run(path, write=args.write) for path in tqdm(paths, desc="notebooks")]
    failures = [failure for failure in failures if failure is not None]
    print(*failures, sep="\n", end="\n" if failures else "")
    print(f"{len(paths) - len(failures)} of {len(paths)} notebooks ran")
    sys.exit(bool(failures) or not paths)


if __name__ == "__main__":
    main()
