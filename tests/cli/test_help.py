"""What `--help` prints: commands by purpose, and for each its examples, which are run here."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from kling_async import KlingClient, MasterTextToVideo
from kling_async.cli.arguments import parse
from kling_async.cli.main import main, run
from kling_async.cli.options import COMMANDS, PURPOSES
from tests.cli.batches import write_rows
from tests.cli.conftest import KEY

if TYPE_CHECKING:
    from tests.cli.conftest import Command, Serve

ROOT = Path(__file__).parents[2]


class Help(Protocol):
    def __call__(self, *argv: str, columns: int = 80) -> str: ...


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Help:
    """Give what `--help` prints at a width."""

    def help_of(*argv: str, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as caught:
            parse([*argv, "--help"])
        assert caught.value.code == 0
        return capsys.readouterr().out

    return help_of


def test_commands_by_purpose(help_of: Help) -> None:
    """The help of the program lists every command once, below its purpose."""
    assert [name for names in PURPOSES.values() for name in names] == list(COMMANDS)
    said = help_of()
    listed = re.findall(r"^  (\w+) ", said[said.index("one video:") :], re.MULTILINE)
    assert listed == list(COMMANDS)
    assert all(f"\n{purpose}:\n" in said for purpose in PURPOSES)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [80, 40])
def test_help_fits_the_terminal(help_of: Help, name: str, columns: int) -> None:
    """After the usage, every line of prose fits; names, examples and titles are not broken."""
    said = help_of(name, columns=columns)
    for line in said.partition("\n\n")[2].splitlines():
        is_prose = re.match(r"  +\S+(?: \S+){2}", line) and not re.match(r"  ({|kling-async)", line)
        assert len(line) <= columns or not is_prose
    assert "docs/guides/command-line.md#" in re.sub(r"-\n +", "-", said)


def test_purposes_are_sections_of_the_guide(help_of: Help) -> None:
    """The section that the help of a command names is a heading of the guide."""
    text = (ROOT / "docs" / "guides" / "command-line.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert set(PURPOSES) <= {heading.lower() for heading in headings}
    assert "\n  docs/guides/command-line.md#a-batch\n" in help_of("worker")


def examples_of(name: str) -> tuple[str, str]:
    """Return the two examples of a command."""
    return COMMANDS[name].example, COMMANDS[name].other_example


ENDING = [name for name in COMMANDS if name not in {"worker", "limits", "listen", "emulate"}]


@pytest.mark.parametrize("name", ENDING)
async def test_examples(
    name: str, serve: Serve, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples of a command work as they are, with its account, files and references."""
    monkeypatch.chdir(tmp_path)
    origin = (await serve()).origin
    write_rows(tmp_path)
    Path("my.jsonl").write_text('{"mode": "master-text", "prompt": "a fox"}', encoding="utf-8")
    if name == "rescue":
        await command("batch", "clips.jsonl")
    if name == "report":
        await command("batch", "clips.jsonl", "--download-to", "videos")
    async with KlingClient(KEY, base_url=origin) as kling:
        task = await kling.submit(MasterTextToVideo("a fox"))
        await task
    for example in examples_of(name):
        line = example.partition(" > ")[0].replace("kling-2-1/task_12345678", str(task.ref))
        words = shlex.split(
            line.replace("https://example.com/fox.jpg", f"{origin}/samples/fox.jpg")
        )
        ended = await command(*words, *(["--video", "small"] if name == "demo" else []))
        assert ended.code == 0, ended.err
        assert ended.out or "--output" in words


@pytest.mark.parametrize("name", ["listen", "emulate"])
async def test_examples_of_servers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The examples of a server start it; any free port is used here."""
    for example in examples_of(name):
        line = re.sub("--port [0-9]+", "", example)
        running = asyncio.create_task(run(parse([*shlex.split(line), "--port", "0"])))
        said = ""
        while "http://127.0.0.1:" not in said:
            assert not running.done()
            await asyncio.sleep(0.01)
            said += "".join(capsys.readouterr())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_examples_of_a_worker(
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The examples of a worker find their queue, which is empty here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    rows = str(write_rows(tmp_path))
    assert main(["batch", rows, "--enqueue", "--journal", f"{postgres_url}?batch=other"]) == 0
    for example in examples_of("worker"):
        line = example.replace("postgresql://db/kling", postgres_url)
        assert main([*shlex.split(line), "--until-empty"]) == 0
    assert list(json.loads(capsys.readouterr().out.splitlines()[-1])) == ["counts"]


@pytest.mark.real_time
async def test_examples_of_limits(
    redis_url: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples of shared limits reach their server."""
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    for example in examples_of("limits"):
        ended = await command(*example.replace("redis://cache:6379/0", redis_url).split())
        assert (ended.code, ended.err) == (0, "")
        assert "limits of the name" in ended.out or ended.objects[0]["slots"] == 0
