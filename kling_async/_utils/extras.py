"""How to install an optional package, for messages."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kling_async.errors import MissingExtraError

_NAME = "kling-async"


def missing_extra(extra: str, purpose: str) -> MissingExtraError:
    """Return the error for an extra that is not installed.

    Args:
        extra: The name of the extra.
        purpose: What needs it.
    """
    return MissingExtraError(f"{purpose}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra.

    If this package was installed from a folder, the extra is installed from it, too.
    """
    found = next(iter(distributions(name=_NAME)), None)
    direct_url = None if found is None else found.read_text("direct_url.json")  # PEP 610
    return _command(extra, Path(__file__).resolve().parents[2], direct_url)


def _command(extra: str, root: Path, direct_url: str | None) -> str:
    source = _source_folder(direct_url)
    if _is_project(root):
        source, options = root, "-e "
    else:
        options = ""
    if source is None:
        return f'pip install "{_NAME}[{extra}]"'
    folder = "." if source == Path.cwd() else str(source)
    return f"pip install {options}{shlex.quote(f'{folder}[{extra}]')}"


def _source_folder(direct_url: str | None) -> Path | None:
    """Return the folder that the package was installed from, if it still exists."""
    try:
        url = urlsplit(json.loads(direct_url or "{}").get("url", ""))
    except (ValueError, AttributeError):
        return None
    folder = Path(url2pathname(url.path))
    return folder if url.scheme == "file" and _is_project(folder) else None


def _is_project(folder: Path) -> bool:
    try:
        return f'name = "{_NAME}"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return False
