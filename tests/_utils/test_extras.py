from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kling_async
from kling_async._utils.extras import _command, _source_folder, install_command, missing_extra
from kling_async.errors import MissingExtraError

HERE = Path(kling_async.__file__).resolve().parent.parent

# Extras for work on the project itself.
DEVELOPMENT = {"dev", "docs", "lint", "stores", "test", "types"}


def test_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a checkout, an extra is installed from it, wherever the shell is."""
    monkeypatch.chdir(HERE)
    assert install_command("cli") == "pip install -e '.[cli]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("cli") == f"pip install -e '{HERE}[cli]'"


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_every_extra_is_described(page: str) -> None:
    """The tables of extras have all that users choose from; README's text has ``all``."""
    extras = tomllib.loads((HERE / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = (HERE / page).read_text()
    rows = "".join(line for line in text.splitlines() if line.startswith("| `"))
    described = set(re.findall(r"`(\w+)`", rows))
    assert extras.keys() - DEVELOPMENT - {"all"} <= described
    assert "`all`" in text


def test_error_has_the_command() -> None:
    """The error of a missing extra says what needs it, and how to install it."""
    error = missing_extra("redis", "this needs redis")
    assert isinstance(error, MissingExtraError)
    assert str(error) == f"this needs redis: {install_command('redis')}"


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        (None, 'pip install "kling-async[cli]"'),
        ('{"url": "file://CLONE", "dir_info": {}}', "pip install 'CLONE[cli]'"),
        ('{"url": "file:///nowhere", "dir_info": {}}', 'pip install "kling-async[cli]"'),
    ],
)
def test_installed(direct_url: str | None, command: str, tmp_path: Path) -> None:
    """Beside other packages, it comes from the folder it was installed from, or from an index."""
    clone, site = tmp_path / "clone", tmp_path / "site"
    clone.mkdir()
    shutil.copy(HERE / "pyproject.toml", clone)
    noted = direct_url and direct_url.replace("CLONE", str(clone))
    assert _command("cli", site, noted) == command.replace("CLONE", str(clone))


def test_what_pip_has_noted(tmp_path: Path) -> None:
    """Where the package came from is read beside it, wherever it is installed."""
    clone, site = tmp_path / "clone", tmp_path / "site"
    clone.mkdir()
    shutil.copy(HERE / "pyproject.toml", clone)
    shutil.copytree(HERE / "kling_async", site / "kling_async")
    info = site / "kling_async-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kling-async\nVersion: 0.1.0\n")
    (info / "direct_url.json").write_text(f'{{"url": "file://{clone}", "dir_info": {{}}}}')
    program = "from kling_async._utils.extras import install_command; print(install_command('cli'))"
    done = subprocess.run(
        (sys.executable, "-c", program),
        cwd=tmp_path,
        # The copy is not what is measured, where coverage is.
        env={**{k: v for k, v in os.environ.items() if "COV" not in k}, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"pip install '{clone}[cli]'\n"


@pytest.mark.parametrize("direct_url", ["{", "[]", '{"url": "https://example.com/x.whl"}', None])
def test_notes_that_name_no_source_folder(direct_url: str | None) -> None:
    """What pip has noted may be anything."""
    assert _source_folder(direct_url) is None
