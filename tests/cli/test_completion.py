"""`kling-async completion`: its scripts, tried with the Tab key in each shell that is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.options import COMMANDS
from tests.patience import HANGS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command, Execute

# For each shell: where its script goes, and its configuration, in which a function in
# place of the command prints what was completed.
SHELLS = {
    "bash": (".script", ".bashrc", "source ~/.script\nkling-async() { echo GOT $*; }"),
    "zsh": (
        ".zfunc/_kling-async",
        ".zshrc",
        "fpath+=(~/.zfunc)\nautoload -Uz compinit\ncompinit -u\nkling-async() { echo GOT $* }",
    ),
    "fish": (
        ".config/fish/completions/kling-async.fish",
        ".config/fish/config.fish",
        "function kling-async; echo GOT $argv; end",
    ),
}


async def test_script_for_a_program(command: Command) -> None:
    """With JSON, the script is a field; as text it is printed as it is."""
    ended = await command("completion", "bash", "--json")
    (found,) = ended.objects
    assert found["shell"] == "bash"
    assert (await command("completion", "bash")).out.rstrip() == found["script"].rstrip()
    assert all(name in found["script"] for name in COMMANDS)


def test_extra_is_named(execute: Execute, tmp_path: Path) -> None:
    """Without shtab, the error has the command that installs it."""
    (tmp_path / "shtab.py").write_text("raise ImportError")
    ended = execute("completion", "fish", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (ended.code, ended.out) == (2, "")
    assert "completion needs shtab: pip install" in ended.err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_key(shell: str, execute: Execute, tmp_path: Path) -> None:
    """Tab completes a command, an option, a choice, a folder and a file."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script, config, text = SHELLS[shell]
    for name, content in ((script, execute("completion", shell).out), (config, text)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "videos").mkdir()
    (tmp_path / "clips.jsonl").touch()
    keys = "kling-async bat\t--form\tjs\t--download-to vid\t cli\t\nexit\n"
    shown = _typed(tmp_path, shell, keys)
    found = re.findall(r"GOT (batch.*?) *$", shown.replace("videos/", "videos"), re.MULTILINE)
    assert found == ["batch --format jsonl --download-to videos clips.jsonl"], shown


def _typed(home: Path, shell: str, keys: str) -> str:
    """Type keys in a shell that has a terminal; return what it has shown at its end."""
    spawn = "import pty, sys; pty.spawn(sys.argv[1:])"
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"}
    done = subprocess.run(
        (sys.executable, "-c", spawn, shell, "-i"),
        cwd=home,
        env=env,
        input=keys.encode(),
        capture_output=True,
        check=True,
        timeout=HANGS,
    )
    return done.stdout.decode().replace("\r\n", "\n")
