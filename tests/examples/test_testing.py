"""The guide "Testing your application": its files are run as a reader runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import HANGS
from tests.processes import unmeasured

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "testing"
SETTINGS = re.search(
    r"^```toml\n(.*?)^```",
    (ROOT / "docs" / "guides" / "testing.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "number"), [("", 6), ("session", 1)])
def test_the_guide(folder: str, number: int, tmp_path: Path) -> None:
    """The tests of the guide pass, with the settings of the guide, and leave nothing open."""
    assert SETTINGS is not None
    for file in (EXAMPLE / folder).glob("*.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "pyproject.toml").write_text(SETTINGS[1], encoding="utf-8")
    # Starlette's TestClient warns of the httpx that it uses.
    warnings = ["-W", "error", "-W", "ignore:Using `httpx` with"]
    command = [sys.executable, "-X", "dev", *warnings, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=unmeasured(),
        check=False,
        timeout=HANGS,
    )
    assert f"{number} passed" in done.stdout, done.stdout + done.stderr
