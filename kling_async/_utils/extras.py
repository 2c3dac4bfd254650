"""How an optional package is installed beside this one, wherever this one came from."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kling_async.errors import MissingExtraError

_NAME = "kling-async"


def missing_extra(extra: str, words: str) -> MissingExtraError:
    """Return the error for an extra that is not installed.

    Args:
        extra: The name of the extra.
        words: What needs it.
    """
    return MissingExtraError(f"{words}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra.

    A checkout, which an editable install is too, is installed from its own folder, as is what was
    installed from a folder: no index need know the package.
    """
    return _command(extra, Path(__file__).resolve().parents[2], _direct_url())


def _command(extra: str, here: Path, direct_url: str | None) -> str:
    if _is_checkout(here):
        return f"pip install -e {_quoted(here, extra)}"
    folder = _folder(direct_url)
    if folder is not None:
        return f"pip install {_quoted(folder, extra)}"
    return f'pip install "{_NAME}[{extra}]"'


def _is_checkout(folder: Path) -> bool:
    try:
        return f'name = "{_NAME}"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return False


def _direct_url() -> str | None:
    """Return what pip notes of an install that came from no index (PEP 610)."""
    found = next(iter(distributions(name=_NAME)), None)
    return None if found is None else found.read_text("direct_url.json")


def _folder(direct_url: str | None) -> Path | None:
    """Return the folder that a package was installed from, if that is still there."""
    try:
        url = urlsplit(json.loads(direct_url or "{}").get("url", ""))
    except (ValueError, AttributeError):
        return None
    folder = Path(url2pathname(url.path))
    return folder if url.scheme == "file" and _is_checkout(folder) else None


def _quoted(folder: Path, extra: str) -> str:
    place = "." if folder == Path.cwd() else str(folder)
    return shlex.quote(f"{place}[{extra}]")
