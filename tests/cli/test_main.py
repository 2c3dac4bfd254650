"""`kling-async` as a process of its own, or as `main` is called by its script."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from kling_async import __version__
from kling_async.cli.main import main

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.cli.conftest import Emulate, Execute, Start


def _line(process: subprocess.Popen[str], *, err: bool = False) -> str:
    """Read one line, which is there or comes."""
    pipe = process.stderr if err else process.stdout
    assert pipe is not None
    return pipe.readline()


def _deaf(process: subprocess.Popen[str]) -> str:
    """Close the process's stdout at our end, and give what it says on stderr."""
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    return process.stderr.read()


def test_version(execute: Execute) -> None:
    """`python -m kling_async --version` prints the version."""
    ended = execute("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"kling-async {__version__}\n", "")


@pytest.mark.slow
def test_generate_from_process_to_process(
    emulate: Emulate, execute: Execute, tmp_path: Path
) -> None:
    """A video is made and saved by one process from another, and both leave in peace."""
    env = emulate("--speed", "1000")
    ended = execute(
        "generate", "a fox", "--first-poll", "0.1", "--download-to", str(tmp_path), env=env
    )
    (file,) = tmp_path.iterdir()
    assert (ended.code, ended.out) == (0, f"{file}\n")
    assert file.read_bytes()[4:8] == b"ftyp"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_names_what_still_runs(emulate: Emulate, start: Start, number: int) -> None:
    """Ctrl-C and SIGTERM end a command with 130, and the task's reference is out."""
    process = start("generate", "a fox", env=emulate("--fault", "task:*=stuck"))
    ref = _line(process, err=True).removeprefix("submitted ").strip()
    assert ref.startswith("kling-2-1/task_")
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert f"To continue: kling-async wait {ref}\n" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_emulator_ends_in_peace(start: Start, number: int) -> None:
    """Ctrl-C and SIGTERM are how an emulator is meant to end: code 0, and nothing said."""
    process = start("emulate", "--port", "0")
    _line(process)
    _line(process)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 0
    assert len(err.splitlines()) == 1


LOST = "kling-async: the results cannot be written to stdout: Broken pipe\n"


@pytest.mark.slow
def test_closed_pipe_is_one_line(emulate: Emulate, execute: Execute, start: Start) -> None:
    """If the output is not read any more, the command says so in one line, and ends with 7."""
    env = emulate("--speed", "1000000", "--fault", "status:1=slow:0.2")
    ref = execute("submit", "a fox", env=env).out.strip()
    process = start("status", ref, env=env)
    assert _deaf(process) == LOST
    assert process.wait() == 7


@pytest.mark.slow
def test_closed_pipe_names_what_still_runs(emulate: Emulate, start: Start) -> None:
    """A reference that cannot be written to stdout is written to stderr."""
    process = start("submit", "a fox", env=emulate("--fault", "submit:1=slow:0.2"))
    first, last = _deaf(process).splitlines(keepends=True)
    assert first.startswith("To continue: kling-async wait kling-2-1/task_")
    assert (last, process.wait()) == (LOST, 7)


@pytest.mark.slow
def test_closed_pipe_of_many_tasks(emulate: Emulate, execute: Execute, start: Start) -> None:
    """A closed pipe does not end a wait for many tasks."""
    env = emulate("--speed", "1000", "--fault", "status:1=slow:0.5")
    refs = [execute("submit", prompt, env=env).out.strip() for prompt in "ab"]
    process = start("wait", *refs, env=env)
    out = _deaf(process)
    assert out.count(": success") == 2
    assert out.endswith(LOST)
    assert process.wait() == 7


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_batch(
    emulate: Emulate, execute: Execute, start: Start, tmp_path: Path, number: int
) -> None:
    """Ctrl-C and SIGTERM end a batch with 130; the same command continues and repeats nothing."""
    env = emulate("--speed", "100", "--fault", "task:2=stuck")
    rows = tmp_path / "clips.csv"
    rows.write_text("key,mode,prompt\na,master-text-to-video,a fox\nb,master-text-to-video,a cat\n")
    argv = ("batch", str(rows), "--first-poll", "0.7")
    process = start(*argv, env=env)
    first = _line(process)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "Tasks still running at the service: 1\n" in err
    assert "unattended" not in err  # the journal has it
    assert f"To continue: kling-async {' '.join(argv)}\n" in err
    assert "Traceback" not in err
    ended = execute(*argv, "--timeout", "0.5", env=env)
    assert (ended.code, ended.out) == (3, first)
    assert "Tasks that may have cost money, all runs together: 2\n" in ended.err


@pytest.mark.slow
def test_closed_pipe_of_a_batch(emulate: Emulate, start: Start, tmp_path: Path) -> None:
    """If what is finished is not read any more, a batch is done to its end all the same."""
    rows = tmp_path / "clips.jsonl"
    row = {"mode": "master-text-to-video", "prompt": "a fox"}
    rows.write_text("\n".join(json.dumps({**row, "key": key}) for key in "ab"))
    argv = ("batch", str(rows), "--in-flight", "1", "--first-poll", "0.7")
    process = start(*argv, env=emulate("--speed", "100"))
    out = _deaf(process)
    assert "  finished           2\n" in out
    assert out.endswith(LOST)
    assert process.wait() == 7


def test_main_returns_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`main` takes the arguments and returns the exit code."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    assert main(["balance"]) == 2
    assert "APIXO_API_KEY" in capsys.readouterr().err


def test_main_outside_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` runs in any thread, where signals cannot be caught."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["balance"])))
    thread.start()
    thread.join()
    assert codes == [2]


def test_key_stays_out_of_the_process_list(execute: Execute) -> None:
    """There is no option for the key."""
    ended = execute("balance", "--api-key", "a-key", env={**os.environ, "APIXO_API_KEY": "a-key"})
    assert ended.code == 2


def test_no_loop_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` may be called again and again."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    assert [main(["balance"]), main(["balance"])] == [2, 2]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_interrupted_while_modules_are_imported(execute: Execute, tmp_path: Path) -> None:
    """Ctrl-C before a command has started ends it with 130 and no traceback."""
    (tmp_path / "aiohttp.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    ended = execute("balance", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (ended.code, ended.out, ended.err) == (130, "", "")
