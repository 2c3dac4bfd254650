from __future__ import annotations

import asyncio
import json
import re
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from kling_async._utils.extras import install_command
from kling_async.media import inspect_video, save_frame
from kling_async.testing.sample_files import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.cli.conftest import Command

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


def _rows(folder: Path, *rows: Mapping[str, object]) -> Path:
    path = folder / "my.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def _sheet(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


async def test_sample_of_all_modes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file: 13 rows, a chain of two clips, and a sheet that names only what exists."""
    monkeypatch.chdir(tmp_path)
    ended = await command("demo", "--video", "small")
    folder = tmp_path / "kling-demo"
    assert (ended.code, ended.out) == (0, f"{folder / 'index.html'}\n")
    assert "15 of 15 videos" in ended.err
    videos = sorted(folder.glob("*.mp4"))
    assert videos[3].name == "04-pro-image-to-video.mp4"
    assert all(video.read_bytes()[4:8] == b"ftyp" for video in videos)
    assert (folder / "image-01.jpg").read_bytes() == (FOLDER / "fox.jpg").read_bytes()
    linked = set(re.findall(r'(?:src|href)="\./([^"]+)"', _sheet(folder)))
    manifests = {f"{video.name}.json" for video in videos if video.name != "15-chain.mp4"}
    assert linked == {path.name for path in folder.iterdir()} - {"index.html", *manifests}
    assert manifests <= {path.name for path in folder.iterdir()}
    assert len(videos) == 15


async def test_chain(command: Command, tmp_path: Path) -> None:
    """The second clip begins with the last frame of the first; the chain is as long as both."""
    ended = await command("demo", "--to", tmp_path, "--video", "small", "--json")
    *rows, second, chain, _page = ended.objects
    frame = tmp_path / "14-image.png"
    expected = tmp_path / "expected.png"
    await save_frame(tmp_path / str(rows[0]["file"]), expected, at="last")
    assert frame.read_bytes() == expected.read_bytes()
    assert sha256(frame.read_bytes()).hexdigest() in second["input"]["image_url"]
    parts = [await inspect_video(tmp_path / str(row["file"])) for row in (rows[0], second)]
    joined = await inspect_video(tmp_path / chain["file"])
    assert joined.duration == sum(part.duration for part in parts)


async def test_place_of_the_chain_that_is_taken(command: Command, tmp_path: Path) -> None:
    """A chain that cannot be written is a failed card; all rows have their videos."""
    (tmp_path / "14-image.png").mkdir()
    ended = await command("demo", "--to", tmp_path, "--video", "small")
    assert ended.code == 1
    assert "13 of 14 videos" in ended.err
    assert "Is a directory" in _sheet(tmp_path)


@pytest.mark.parametrize(("failing", "made"), [(1, "12 of 13"), (14, "13 of 14")])
async def test_chain_with_a_failed_clip(
    command: Command, tmp_path: Path, failing: int, made: str
) -> None:
    """Without one of its clips there is no chain; the rows are as they would be without it."""
    fault = f"task:{failing}=fail:NSFW_DETECTED"
    ended = await command("demo", "--to", tmp_path, "--video", "small", "--fault", fault)
    assert ended.code == 1
    assert f"{made} videos" in ended.err
    assert "chain" not in _sheet(tmp_path)


async def test_raw_inputs(command: Command, tmp_path: Path) -> None:
    """A raw input is a row like any other; of a model that is not emulated, it is not found."""
    fields = {"mode": "master-text-to-video", "prompt": "a raw fox"}
    rows = _rows(tmp_path, {"model": "kling-2-1", "fields": fields}, {"model": "a", "fields": {}})
    to = tmp_path / "out"
    ended = await command("demo", rows, "--to", to, "--video", "small")
    assert ended.code == 1
    assert "02 a: FAILED" in ended.err
    assert "a raw fox" in _sheet(to)
    assert (to / "01-master-text-to-video.mp4").is_file()


async def test_states_are_printed(command: Command, tmp_path: Path) -> None:
    """The states of every row are on stderr until it is done."""
    ended = await command("demo", _rows(tmp_path, TEXT), "--to", tmp_path, "--video", "small")
    states = re.findall(r"^01 master-text-to-video: (\w+)", ended.err, re.MULTILINE)
    assert states[0] == "submitted"
    assert states[-2:] == ["saving", "done"]


async def test_speed_shortens_the_time(command: Command, tmp_path: Path) -> None:
    """At a speed of 20, a video takes 3 to 4.5 seconds and is found at once."""
    begun = asyncio.get_running_loop().time()
    await command("demo", _rows(tmp_path, TEXT), "--to", tmp_path, "--video", "small")
    took = asyncio.get_running_loop().time() - begun
    assert 3 <= took < 5.5
    assert re.search(r"<b>[34]\.\d s</b> in all<", _sheet(tmp_path))
    assert "emulator at <b>20</b> × the service&#x27;s speed" in _sheet(tmp_path)


async def test_failures_hide_nothing(command: Command, tmp_path: Path) -> None:
    """Rows that fail have their reason, the others their video, and the exit code is 1."""
    rows = _rows(
        tmp_path,
        TEXT,
        {"prompt": "not there", "image_url": "{emulator}/samples/none.jpg"},
        TEXT,
    )
    to = tmp_path / "out"
    rule = "task:3=fail:NSFW_DETECTED"
    ended = await command("demo", rows, "--to", to, "--video", "small", "--fault", rule)
    assert ended.code == 1
    assert "1 of 3 videos" in ended.err
    assert sorted(path.name for path in to.iterdir()) == [
        "01-master-text-to-video.mp4",
        "01-master-text-to-video.mp4.json",
        "index.html",
    ]
    assert "IMAGE_DOWNLOAD_FAILED" in _sheet(to)
    assert re.search(r"<b>1</b> video<.*<b class=\"bad\">2</b> failed<", _sheet(to), re.DOTALL)
    assert "NSFW_DETECTED" in _sheet(to)


async def test_stuck_task_is_given_up(command: Command, tmp_path: Path) -> None:
    """A task that never ends is a failed row, not the end of the demo."""
    rows = _rows(tmp_path, TEXT, TEXT)
    ended = await command(
        "demo", rows, "--to", tmp_path, "--video", "small", "--fault", "task:1=stuck"
    )
    assert ended.code == 1
    assert "1 of 2 videos" in ended.err


async def test_failed_download_is_a_failed_row(command: Command, tmp_path: Path) -> None:
    """A video that cannot be fetched is a failure, with the timings that are known."""
    rows = _rows(tmp_path, TEXT)
    ended = await command(
        "demo", rows, "--to", tmp_path, "--video", "small", "--fault", "file:*=500"
    )
    assert ended.code == 1
    assert "answered HTTP 500" in _sheet(tmp_path)
    assert "queued to done" in _sheet(tmp_path)


async def test_fresh_run_replaces_its_own_files(command: Command, tmp_path: Path) -> None:
    """A second run replaces the files of its rows, and touches nothing else."""
    to = tmp_path / "out"
    to.mkdir()
    (to / "01-master-text-to-video.mp4").write_bytes(b"old")
    (to / "notes.txt").write_text("mine")
    ended = await command("demo", _rows(tmp_path, TEXT), "--to", to, "--video", "small")
    assert ended.code == 0
    assert (to / "01-master-text-to-video.mp4").read_bytes()[4:8] == b"ftyp"
    assert sorted(path.name for path in to.iterdir()) == [
        "01-master-text-to-video.mp4",
        "01-master-text-to-video.mp4.json",
        "index.html",
        "notes.txt",
    ]


async def test_wrong_rows_start_nothing(command: Command, tmp_path: Path) -> None:
    """All rows are checked first: one wrong row, named by its number, and nothing is made."""
    rows = _rows(tmp_path, TEXT, {**TEXT, "seed": 1})
    ended = await command("demo", rows, "--to", tmp_path / "out")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("kling-async: row 2: seed: unknown key")
    assert not (tmp_path / "out").exists()


async def test_all_invalid_rows_are_named(command: Command, tmp_path: Path) -> None:
    """Each invalid row has a line with its number; what is not JSON hides no other."""
    path = tmp_path / "my.jsonl"
    path.write_text('{"a": }\n\n{"mode": "master-text", "prompt": "a", "duration": 7}')
    ended = await command("demo", path, "--to", tmp_path / "out")
    assert ended.code == 2
    first, second = ended.err.splitlines()
    assert first.startswith("kling-async: row 1: not JSON")
    assert second.startswith("kling-async: row 3: duration: must be one of 5, 10")


async def test_file_without_rows(command: Command, tmp_path: Path) -> None:
    """A file without rows is refused."""
    (tmp_path / "my.jsonl").write_text("\n  \n")
    ended = await command("demo", tmp_path / "my.jsonl", "--to", tmp_path / "out")
    assert (ended.code, "there are no rows in it" in ended.err) == (2, True)


async def test_placeholder_of_the_emulator(command: Command, tmp_path: Path) -> None:
    """The emulator's origin replaces its placeholder in any text, also within a list."""
    urls = ["{emulator}/samples/fox.jpg", "{emulator}/samples/lake-day.jpg"]
    rows = _rows(
        tmp_path,
        {"prompt": "at {emulator}", "image_url": urls[0]},
        {"mode": "pro", "prompt": "b", "image_urls": urls, "duration": 10},
    )
    ended = await command("demo", rows, "--to", tmp_path, "--video", "small")
    assert ended.code == 0
    assert "{emulator}" not in _sheet(tmp_path)
    assert re.search(r"at http://127\.0\.0\.1:\d+", _sheet(tmp_path))


async def test_wrong_fault_starts_nothing(command: Command, tmp_path: Path) -> None:
    """An invalid rule ends the demo before it begins."""
    ended = await command("demo", "--to", tmp_path / "out", "--fault", "nonsense")
    assert ended.code == 2
    assert not (tmp_path / "out").exists()


async def test_folder_that_cannot_be(command: Command, tmp_path: Path) -> None:
    """A file in the place of the folder is one sentence and code 2."""
    (tmp_path / "out").write_text("a file")
    ended = await command("demo", "--to", tmp_path / "out")
    assert ended.code == 2
    assert "cannot write to" in ended.err


async def test_place_that_is_taken(command: Command, tmp_path: Path) -> None:
    """A folder in the place of a video is a failed row; one in the place of the sheet, code 2."""
    to = tmp_path / "out"
    (to / "01-master-text-to-video.mp4").mkdir(parents=True)
    ended = await command("demo", _rows(tmp_path, TEXT), "--to", to, "--video", "small")
    assert ended.code == 1
    assert "cannot write" in _sheet(to)
    (to / "index.html").unlink()
    (to / "index.html").mkdir()
    ended = await command("demo", _rows(tmp_path, TEXT), "--to", to, "--video", "small")
    assert ended.code == 2


async def test_without_the_extra(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without PyAV: the small clip, no chain, and how to get both."""
    monkeypatch.setitem(sys.modules, "av", None)
    ended = await command("demo", "--to", tmp_path)
    assert ended.code == 0
    note = ended.err.splitlines()[0]
    assert note.endswith(f"a chain of two: {install_command('emulator')}")
    assert "13 of 13 videos" in ended.err


async def test_rendered_without_the_extra(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for rendered videos without PyAV, the demo refuses."""
    monkeypatch.setitem(sys.modules, "av", None)
    ended = await command("demo", "--to", tmp_path, "--video", "rendered")
    assert ended.code == 2


async def test_interrupted_demo(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted demo says what became of it, and leaves no half of a file."""
    running = asyncio.create_task(command("demo", "--to", tmp_path, "--video", "small"))
    await asyncio.sleep(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "interrupted; the emulator is stopped" in capsys.readouterr().err
    assert {path.suffix for path in tmp_path.iterdir()} <= {".jpg", ".png", ".webp"}


async def test_demo_for_a_program(command: Command, tmp_path: Path) -> None:
    """With JSON, each row is an object, and the page is the last one."""
    rows = _rows(tmp_path, TEXT, TEXT)
    argv = ("--to", tmp_path, "--video", "small", "--fault", "task:2=fail:NSFW_DETECTED")
    ended = await command("demo", rows, *argv, "--json")
    made, failed, page = ended.objects
    assert (ended.code, ended.err) == (1, "")
    assert (made["row"], made["file"], made["message"]) == (1, "01-master-text-to-video.mp4", None)
    assert (made["seconds"], made["cost_time"]) == (
        pytest.approx(4, abs=1),
        pytest.approx(4, abs=1),
    )
    assert (failed["row"], failed["file"], failed["seconds"]) == (2, None, None)
    assert "NSFW_DETECTED" in failed["message"]
    assert (page["page"], page["videos"], page["failed"]) == (str(tmp_path / "index.html"), 1, 1)


async def test_interrupted_demo_for_a_program(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With JSON, an interruption is one object; nothing is left running."""
    argv = ("demo", _rows(tmp_path, TEXT), "--to", tmp_path, "--video", "small", "--json")
    running = asyncio.create_task(command(*argv))
    await asyncio.sleep(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    expected = {"error": "interrupted", "running": [], "unsure": []}
    assert json.loads(capsys.readouterr().err) == expected
