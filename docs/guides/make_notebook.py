"""Makes `notebook.ipynb` of the page `notebook.md`: `python docs/guides/make_notebook.py`."""

import json
import re
from pathlib import Path

PAGE = Path(__file__).with_name("notebook.md")
CODE = re.compile(r"```py\n(.*?)```\n", re.DOTALL)
DOWNLOAD = re.compile(r"\{download\}`.*?`; it needs", re.DOTALL)
PICTURE = re.compile(r"!\[.*?\]\(.*?\)\n*")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\.md\)")


def make_notebook(page: str) -> dict[str, object]:
    """Return the notebook whose cells are the text and the code of a page."""
    cells: list[dict[str, object]] = []
    for number, part in enumerate(CODE.split(page)):
        is_code = number % 2 == 1
        text = part if is_code else DOWNLOAD.sub("It needs", PICTURE.sub("", LINK.sub(r"\1", part)))
        cell: dict[str, object] = {
            "cell_type": "code" if is_code else "markdown",
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.strip("\n").splitlines(keepends=True),
        }
        cells.append(cell | ({"execution_count": None, "outputs": []} if is_code else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def to_text(notebook: dict[str, object]) -> str:
    """Return the text of a notebook's file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    text = to_text(make_notebook(PAGE.read_text(encoding="utf-8")))
    PAGE.with_suffix(".ipynb").write_text(text, encoding="utf-8")
