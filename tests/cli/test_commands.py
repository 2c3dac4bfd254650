from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.engines.object_stores import s3_server, s3_url  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.testing import Emulator
    from tests.cli.conftest import Command, Serve

REF = re.compile(r"kling-2-1/task_[0-9a-f]+")


def _refs(emulator: Emulator) -> list[str]:
    return [f"kling-2-1/{submission.task_id}" for submission in emulator.ledger]


async def test_generate_prints_the_url(serve: Serve, command: Command) -> None:
    """The result's URL is on stdout; the reference and the state are on stderr."""
    emulator = await serve()
    ended = await command("generate", "a fox")
    (ref,) = _refs(emulator)
    assert ended.code == 0
    assert ended.out == f"{emulator.origin}/files/{ref.split('/')[1]}.mp4\n"
    assert f"submitted {ref}\n" in ended.err
    assert "master-text-to-video: success" in ended.err


async def test_generate_with_other_models(serve: Serve, command: Command) -> None:
    """Motion control takes an image and a video; a raw input is sent as it is."""
    emulator = await serve(models=["kling-9"])
    image, video = (f"{emulator.origin}/samples/{name}" for name in ("fox.jpg", "small.mp4"))
    ended = await command(
        *("generate", "--model", "kling-3-0-std", "--image", image, "--video", video)
    )
    assert ended.code == 0, ended.err
    assert "motion-control: success" in ended.err
    ended = await command("generate", "a fox", "--model", "kling-9", "--fields", '{"seed": [7]}')
    assert ended.code == 0, ended.err
    assert "kling-9: success" in ended.err
    assert emulator.ledger[-1].input == {"prompt": "a fox", "seed": [7]}
    ended = await command("generate", "a fox", "--model", "kling-8", "--fields", "{}")
    assert (ended.code, len(emulator.ledger)) == (1, 2)


async def test_generate_downloads(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With a folder, the video is saved there and its path is printed."""
    await serve()
    ended = await command("generate", "a fox", "--download-to", tmp_path / "videos")
    (file,) = (tmp_path / "videos").iterdir()
    assert (ended.code, ended.out) == (0, f"{file}\n")
    assert file.read_bytes()[4:8] == b"ftyp"


async def test_generate_for_a_program(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With JSON, stdout is one object, files included, and stderr is empty."""
    emulator = await serve()
    ended = await command("generate", "a fox", "--json", "--download-to", tmp_path)
    (fields,) = ended.objects
    assert fields["ref"] == _refs(emulator)[0]
    assert fields["cost_time"] == 60.0
    assert [str(path) for path in tmp_path.iterdir()] == fields["files"]
    assert ended.err == ""


async def test_generate_polls_first_when_given(serve: Serve, command: Command) -> None:
    """The first status call comes after the seconds that are given."""
    emulator = await serve(duration=(5.0, 5.0))
    await command("generate", "a fox", "--first-poll", "7")
    submitted, asked = emulator.requests
    assert asked.at - submitted.at == pytest.approx(7, abs=0.1)


async def test_generate_polls_as_the_environment_says(
    serve: Serve, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulator that is fast exports when clients poll first, and commands do so."""
    emulator = await serve(duration=(1.0, 1.0))
    monkeypatch.setenv("KLING_FIRST_POLL", "3")
    await command("generate", "a fox")
    submitted, asked = emulator.requests
    assert asked.at - submitted.at == pytest.approx(3, abs=0.1)


async def test_failed_task(serve: Serve, command: Command) -> None:
    """A task that fails ends the command with 1 and the vendor's code."""
    await serve("task:1=fail:NSFW_DETECTED")
    ended = await command("generate", "a fox")
    assert (ended.code, ended.out) == (1, "")
    assert "kling-async: " in ended.err
    assert "NSFW_DETECTED" in ended.err


async def test_deadline(serve: Serve, command: Command) -> None:
    """A task that does not end in time ends the command with 3, and the next command is printed."""
    emulator = await serve("task:1=stuck")
    ended = await command("generate", "a fox", "--timeout", "120")
    assert ended.code == 3
    assert f"To continue: kling-async wait {_refs(emulator)[0]}\n" in ended.err


async def test_lost_answer(serve: Serve, command: Command) -> None:
    """A submit whose answer is lost ends the command with 4, and is not repeated."""
    emulator = await serve("submit:1=lost-answer")
    ended = await command("generate", "a fox", "--json")
    assert ended.code == 4
    (error,) = ended.errors
    assert error["error"] == "AnswerLostError"
    assert error["may_have_charged"] is True
    assert len(emulator.ledger) == 1


async def test_refused_submit(serve: Serve, command: Command) -> None:
    """A submit that is refused ends the command with 1, since nothing was charged."""
    await serve(balance=0.1)
    ended = await command("generate", "a fox")
    assert ended.code == 1
    assert "top up the account" in ended.err


async def test_failed_download(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A download that fails ends the command with 5, and the next command is printed."""
    emulator = await serve("file:*=500")
    ended = await command("generate", "a fox", "--download-to", tmp_path)
    assert (ended.code, ended.out) == (5, "")
    assert f"To continue: kling-async download {_refs(emulator)[0]}\n" in ended.err


async def test_retries_are_printed(serve: Serve, command: Command) -> None:
    """A wait for another try is explained on stderr, and the command continues."""
    await serve("balance:1=503")
    ended = await command("balance")
    assert (ended.code, ended.out) == (0, "1000.00\n")
    assert "again in" in ended.err


async def test_key_is_never_shown(serve: Serve, command: Command) -> None:
    """A refused key is an error that does not quote it."""
    await serve(api_key="another-key-than-that")
    ended = await command("balance", "--base-url", (await serve("any:*=401")).origin)
    assert ended.code == 1
    assert "a-secret-key" not in ended.err
    assert "401" in ended.err


async def test_missing_key(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key nothing is sent, and the variable is named."""
    monkeypatch.setenv("APIXO_API_KEY", " ")
    ended = await command("balance")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "kling-async: no API key: set the environment variable APIXO_API_KEY\n"


async def test_wrong_input_is_not_sent(serve: Serve, command: Command) -> None:
    """An input that breaks rules ends the command with 2, and nothing is sent."""
    emulator = await serve()
    ended = await command("generate", "", "--duration", "7")
    assert ended.code == 2
    assert "prompt" in ended.err
    assert "duration" in ended.err
    assert emulator.requests == ()


async def test_submit_prints_the_reference(serve: Serve, command: Command) -> None:
    """The reference is all that stdout holds."""
    emulator = await serve()
    url = "http://127.0.0.1:9/done"
    ended = await command("submit", "a fox", "--callback-url", url)
    assert (ended.code, ended.out, ended.err) == (0, f"{_refs(emulator)[0]}\n", "")
    assert emulator.ledger[0].callback_url == url


async def test_submit_for_a_program(serve: Serve, command: Command) -> None:
    """With JSON, the reference is a field."""
    emulator = await serve()
    ended = await command("submit", "a fox", "--json")
    assert ended.objects == [{"ref": _refs(emulator)[0]}]


async def test_callback_without_https(serve: Serve, command: Command) -> None:
    """A callback URL without https is refused before anything is sent."""
    emulator = await serve()
    ended = await command("submit", "a fox", "--callback-url", "http://example.com/done")
    assert ended.code == 2
    assert emulator.requests == ()


async def test_wait_prints_each_as_it_ends(serve: Serve, command: Command) -> None:
    """Every task has its lines, in the order of their ends; the first failure gives the code."""
    emulator = await serve(
        "task:2=fail:NSFW",
        "task:3=stuck",
        duration=lambda fields: {"a": 90, "b": 30, "c": 9, "d": 60}[str(fields["prompt"])],
    )
    for prompt in "abcd":
        await command("submit", prompt)
    one, two, three, four = _refs(emulator)
    ended = await command("wait", one, two, three, four, one, "--timeout", "200")
    assert ended.code == 1
    assert REF.findall(ended.out) == [four, one]
    assert f"{two} failed with NSFW" in ended.err
    assert f"kling-async wait {three}\n" in ended.err


async def test_wait_for_a_program(serve: Serve, command: Command) -> None:
    """With JSON, every result is an object on stdout, and every error one on stderr."""
    emulator = await serve("task:2=fail:NSFW")
    await command("submit", "a")
    await command("submit", "b")
    good, bad = _refs(emulator)
    ended = await command("wait", "--json", good, bad)
    assert [fields["ref"] for fields in ended.objects] == [good]
    assert [(error["error"], error["ref"]) for error in ended.errors] == [("TaskFailedError", bad)]


async def test_wait_downloads(serve: Serve, command: Command, tmp_path: Path) -> None:
    """The paths of the saved videos follow each reference; a failed download ends with 5."""
    emulator = await serve("file:2-=410")
    await command("submit", "a fox")
    await command("submit", "a cat")
    saved, lost = _refs(emulator)
    ended = await command("wait", saved, "--download-to", tmp_path / "videos")
    (file,) = (tmp_path / "videos").iterdir()
    assert (ended.code, ended.out) == (0, f"{saved} {file}\n")
    ended = await command("wait", saved, lost, "--download-to", tmp_path / "videos", "--json")
    assert ended.code == 5
    assert [(found["ref"], found["files"]) for found in ended.objects] == [(saved, [str(file)])]
    assert [(found["ref"], found["exit_code"]) for found in ended.errors] == [(lost, 5)]


async def test_wrong_reference_is_found_first(serve: Serve, command: Command) -> None:
    """An invalid reference stops the command before anything is sent."""
    emulator = await serve()
    ended = await command("wait", "kling-2-1/task_1", "nonsense")
    assert ended.code == 2
    assert "'nonsense'" in ended.err
    assert emulator.requests == ()


async def test_status_prints_every_state(serve: Serve, command: Command) -> None:
    """Each task has one line with its state, and with its URLs or why it failed."""
    emulator = await serve("task:2=fail:NSFW", duration=(60.0, 60.0))
    await command("submit", "a")
    await command("submit", "b")
    await asyncio.sleep(61)
    await command("submit", "c")
    one, two, three = _refs(emulator)
    ended = await command("status", one, two, three)
    assert ended.code == 0
    assert ended.out.splitlines() == [
        f"{one} success {emulator.origin}/files/{one.split('/')[1]}.mp4",
        f"{two} failed NSFW: Generation failed: NSFW",
        f"{three} pending",
    ]


async def test_status_for_a_program(serve: Serve, command: Command) -> None:
    """With JSON, each state is an object; a task that is not found hides no other."""
    emulator = await serve()
    await command("submit", "a")
    ended = await command("status", "--json", "kling-2-1/none", _refs(emulator)[0])
    assert ended.code == 1
    assert [fields["state"] for fields in ended.objects] == ["pending"]
    assert [error["error"] for error in ended.errors] == ["NotFoundError"]


async def test_download_saves_what_has_ended(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Finished videos are saved; a task that still runs ends the command with 3."""
    emulator = await serve()
    await command("submit", "a")
    await asyncio.sleep(61)
    await command("submit", "b")
    done, running = _refs(emulator)
    ended = await command("download", running, done, "--to", tmp_path)
    (file,) = tmp_path.iterdir()
    assert (ended.code, ended.out) == (3, f"{file}\n")
    assert f"{running} has not ended (pending)" in ended.err


async def test_download_of_a_failed_task(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A task without a video ends the command with 1."""
    emulator = await serve("task:1=fail:NSFW")
    await command("submit", "a")
    await asyncio.sleep(61)
    ended = await command("download", *_refs(emulator), "--to", tmp_path)
    assert ended.code == 1
    assert list(tmp_path.iterdir()) == []


async def test_download_keeps_files(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A file that is there is kept, unless --overwrite is given."""
    emulator = await serve()
    await command("submit", "a")
    await asyncio.sleep(61)
    (ref,) = _refs(emulator)
    file = tmp_path / f"{ref.split('/')[1]}.mp4"
    file.write_bytes(b"mine")
    ended = await command("download", ref, "--to", tmp_path, "--json")
    assert ended.objects == [{"ref": ref, "files": [str(file)]}]
    assert file.read_bytes() == b"mine"
    await command("download", ref, "--to", tmp_path, "--overwrite")
    assert file.read_bytes()[4:8] == b"ftyp"


async def test_balance_for_a_program(serve: Serve, command: Command) -> None:
    """With JSON, the balance is a number."""
    await serve(balance=74.87)
    assert (await command("balance", "--json")).objects == [{"balance": 74.87}]


async def _cancel(command: Command, *argv: object, after: float) -> None:
    running = asyncio.create_task(command(*argv))
    await asyncio.sleep(after)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_interrupted_generate_names_its_task(
    serve: Serve, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that is ended while it waits prints the reference of what still runs."""
    emulator = await serve()
    await _cancel(command, "generate", "a fox", after=30)
    assert f"kling-async wait {_refs(emulator)[0]}\n" in capsys.readouterr().err


async def test_interrupted_download_names_its_task(
    serve: Serve, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A command that is ended while it saves a video prints the reference, too."""
    emulator = await serve("file:1=hang")
    await _cancel(command, "generate", "a fox", "--download-to", tmp_path, after=70)
    assert f"kling-async wait {_refs(emulator)[0]}\n" in capsys.readouterr().err


async def test_interrupted_submit_waits_for_the_answer(
    serve: Serve, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A submit under way is answered before the command ends, so that its task is named."""
    emulator = await serve("submit:1=slow:20")
    await _cancel(command, "submit", "a fox", after=5)
    said = capsys.readouterr()
    assert said.out == ""
    assert f"kling-async wait {_refs(emulator)[0]}\n" in said.err


async def test_interrupted_submit_without_an_answer(
    serve: Serve, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the answer to a submit under way is lost, the possible charge is reported."""
    await serve("submit:1=hang")
    await _cancel(command, "submit", "a fox", after=5)
    assert "may have been started and charged" in capsys.readouterr().err


async def test_interrupted_wait_names_all_that_run(
    serve: Serve, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tasks that were waited for count as running, whether they were asked after or not."""
    emulator = await serve("status:*=hang", "task:1=stuck")
    await command("submit", "a")
    (ref,) = _refs(emulator)
    await _cancel(command, "wait", ref, "kling-2-1/task_elsewhere", after=5)
    said = capsys.readouterr().err
    assert f"kling-async wait {ref} kling-2-1/task_elsewhere\n" in said


async def test_interrupted_with_nothing_running(
    serve: Serve, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that has started nothing says so."""
    await serve("balance:*=hang")
    await _cancel(command, "balance", after=5)
    assert "no task is known to be running" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.real_time
async def test_videos_in_an_archive(
    serve: Serve,
    command: Command,
    s3_url: str,  # noqa: F811 - the fixture
) -> None:
    """Every command that saves videos accepts the URL of an object store, and prints theirs."""
    emulator = await serve(duration=(0.1, 0.1))
    folder = s3_url.partition("?")[0]
    made = await command("generate", "a fox", "--download-to", s3_url, "--first-poll", "0.1")
    (ref,) = _refs(emulator)
    name = f"{folder}/{ref.partition('/')[2]}.mp4"
    assert (made.code, made.out) == (0, f"{name}\n")
    for words in (("wait", ref, "--download-to", s3_url), ("download", ref, "--to", s3_url)):
        ended = await command(*words, "--json")
        assert (ended.code, ended.objects[0]["files"]) == (0, [name])
    denied = await command("wait", ref, "--download-to", s3_url.replace("//bucket", "//other"))
    assert denied.code != 0
    assert len(emulator.ledger) == 1
