from __future__ import annotations

import re
from pathlib import Path

import pytest

from kling_async.cli.arguments import parse
from kling_async.cli.options import COMMANDS

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "command-line.md"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a command has its summary, and each option with its text."""
    options = {
        usage: text for group in COMMANDS[command].options.values() for usage, text in group.items()
    }
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    words = "".join(capsys.readouterr().out.split()).lower()
    assert "".join(COMMANDS[command].summary.split()).lower() in words
    assert all(f"{subject}:" in words for subject in COMMANDS[command].options)
    assert "--json" in COMMANDS[command].options["output"]
    for usage, text in options.items():
        name = usage.split(" ")[0].replace("[no-]", "")
        assert name in words or not name.startswith("-")
        assert "".join(text.split()).lower() in words


def test_guide_has_every_command() -> None:
    """The table of the guide lists the commands, in the same order."""
    rows = re.findall(r"^\| `([a-z]+)[^|]*` \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows[: len(COMMANDS)] == list(COMMANDS)


def test_guide_names_options_that_exist() -> None:
    """Every option that the guide names is one of some command."""
    named = set(re.findall(r"--[a-z][a-z-]+", GUIDE.read_text(encoding="utf-8")))
    usages = "\n".join(
        usage.replace("[no-]", prefix)
        for command in COMMANDS.values()
        for options in command.options.values()
        for usage in options
        for prefix in ("", "no-")
    )
    assert named - set(re.findall(r"--[a-z-]+", usages)) == {"--help"}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["batch", "x"], {"resume": True, "downloads": 4, "timeout": 1800.0, "json": False}),
        (["worker", "--journal", "postgresql://h"], {"drain": 30.0, "lease": 60.0}),
        (["listen"], {"port": 8080, "host": "127.0.0.1", "answer": 200, "count": None}),
        (["emulate"], {"port": 5546, "speed": 1.0, "balance": 1000.0, "fault": []}),
        (["demo"], {"to": Path("kling-demo"), "speed": 20.0, "file": None, "video": "auto"}),
        (["report", "j"], {"format": "table", "journal": Path("j"), "json": False}),
        (["download", "kling-2-1/a"], {"to": Path(), "refs": ["kling-2-1/a"]}),
    ],
)
def test_defaults(argv: list[str], expected: dict[str, object]) -> None:
    """Defaults have the types of their values."""
    args = vars(parse(argv))
    assert {name: args[name] for name in expected} == expected
