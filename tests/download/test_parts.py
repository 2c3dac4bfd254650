from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.download.files import find_complete
from kling_async.download.parts import Part, remove_stale

if TYPE_CHECKING:
    from pathlib import Path

DATA = bytes(range(256)) * 16
ETAG = '"one"'
PART = ".x.mp4.part"
NOTE = ".x.mp4.part.json"


def names(folder: Path) -> set[str]:
    """Name every file of a folder, hidden ones too."""
    return {path.name for path in folder.iterdir()}


def opened(folder: Path, source: str = "here") -> Part:
    """Open a part of x.mp4."""
    part = Part(folder / "x.mp4", source)
    part.lock()
    return part


def finish(part: Part, folder: Path) -> None:
    """Give a part its name, in place of any file."""
    part.sync()
    assert part.publish(folder / "x.mp4", lambda _: True)


def leave(folder: Path, data: bytes = DATA[:1000]) -> None:
    """Leave a part of x.mp4, as a download does that is cut."""
    part = opened(folder)
    part.restart(ETAG, len(DATA))
    part.write(data)
    part.close()


def size_found(folder: Path, source: str = "here") -> int:
    """Open the part that was left, and say how much of it is good."""
    part = opened(folder, source)
    try:
        return part.size
    finally:
        part.close()


def test_a_part_is_gone_on_with(tmp_path: Path) -> None:
    """What was left is there again, and the checksum is that of the whole."""
    leave(tmp_path)
    part = opened(tmp_path)
    assert (part.size, part.etag, part.total) == (1000, ETAG, len(DATA))
    part.write(DATA[1000:])
    finish(part, tmp_path)
    part.close()
    assert part.sha256 == sha256(DATA).hexdigest()
    assert names(tmp_path) == {"x.mp4"}
    assert (tmp_path / "x.mp4").read_bytes() == DATA


def test_bytes_after_the_last_note(tmp_path: Path) -> None:
    """What a killed process wrote after its last note is cut off."""
    leave(tmp_path)
    with (tmp_path / PART).open("ab") as file:
        file.write(b"?" * 5000)
    part = opened(tmp_path)
    part.write(DATA[1000:])
    finish(part, tmp_path)
    part.close()
    assert (tmp_path / "x.mp4").read_bytes() == DATA


@pytest.mark.parametrize(
    ("etag", "total", "data"),
    [(None, len(DATA), b"x"), (ETAG, None, b"x"), (ETAG, len(DATA), b""), (ETAG, 4, b"more")],
)
def test_a_part_that_is_of_no_use(
    etag: str | None, total: int | None, data: bytes, tmp_path: Path
) -> None:
    """What could not be gone on with is not left behind."""
    part = opened(tmp_path)
    part.restart(etag, total)
    part.write(data)
    assert not part.resumable
    assert not part.stays
    part.close()
    assert names(tmp_path) == set()


def test_another_source(tmp_path: Path) -> None:
    """The part of another URL is not gone on with."""
    leave(tmp_path)
    assert size_found(tmp_path, "elsewhere") == 0


@pytest.mark.parametrize("at", [0, 500, 999])
def test_a_part_that_was_tampered_with(at: int, tmp_path: Path) -> None:
    """One wrong byte, as after a power cut, makes a part worthless."""
    leave(tmp_path)
    data = bytearray((tmp_path / PART).read_bytes())
    data[at] ^= 1
    (tmp_path / PART).write_bytes(data)
    assert size_found(tmp_path) == 0
    assert names(tmp_path) == set()


def test_a_part_that_is_too_short(tmp_path: Path) -> None:
    """A part with fewer bytes than its note says is worthless."""
    leave(tmp_path)
    os.truncate(tmp_path / PART, 999)
    assert size_found(tmp_path) == 0


def test_a_part_without_its_note(tmp_path: Path) -> None:
    """A part that nothing is known of is worthless."""
    leave(tmp_path)
    (tmp_path / NOTE).unlink()
    assert size_found(tmp_path) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"etag": 'W/"one"'},
        {"etag": '"one"\r\nX: y'},
        {"etag": None},
        {"source": 1},
        {"total": "4096"},
        {"total": 1000},
        {"total": 10},
        {"size": 0},
        {"size": -1},
        {"size": 1000.0},
        {"size": 10**30},
        {"sha256": None},
        {"more": 1},
    ],
)
def test_a_note_that_makes_no_sense(change: dict[str, object], tmp_path: Path) -> None:
    """A note with one wrong field is as good as none."""
    leave(tmp_path)
    note = tmp_path / NOTE
    note.write_text(json.dumps(json.loads(note.read_text()) | change))
    part = opened(tmp_path)
    assert not part.resumable
    part.close()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_a_note_that_is_none(text: bytes, tmp_path: Path) -> None:
    """A note that was torn is as good as none."""
    leave(tmp_path)
    (tmp_path / NOTE).write_bytes(text)
    assert size_found(tmp_path) == 0


@pytest.mark.slow
@given(pieces=st.lists(st.binary(max_size=50), max_size=8), stops=st.sets(st.integers(0, 7)))
def test_any_pieces_make_the_file(
    pieces: list[bytes], stops: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However a file comes in pieces and is left in between, it is what was sent."""
    folder = tmp_path_factory.mktemp("pieces")
    data = b"".join(pieces)
    part = opened(folder)
    part.restart(ETAG, len(data))
    for number, piece in enumerate(pieces):
        part.write(piece)
        if number in stops and part.resumable:
            part.close()
            part = opened(folder)
    finish(part, folder)
    part.close()
    assert (folder / "x.mp4").read_bytes() == data
    assert part.sha256 == sha256(data).hexdigest()
    assert names(folder) == {"x.mp4"}


def test_notes_on_the_way(tmp_path: Path) -> None:
    """A note is written every four mebibytes, for those who are killed."""
    part = opened(tmp_path)
    part.restart(ETAG, 2**30)
    for _ in range(4):
        assert not (tmp_path / NOTE).exists()
        part.write(bytes(1024**2))
    first = (tmp_path / NOTE).read_bytes()
    assert json.loads(first)["size"] == 4 * 1024**2
    part.write(bytes(1024**2))
    assert (tmp_path / NOTE).read_bytes() == first
    part.reset()
    part.close()


def test_a_write_after_one_that_failed(tmp_path: Path) -> None:
    """Half of what could not be written is written over by what comes next."""
    resource = pytest.importorskip("resource", reason="sizes of files can be limited on Unix only")
    part = opened(tmp_path)
    part.restart(ETAG, len(DATA))
    part.write(DATA[:1000])
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, old[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            part.write(b"?" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert part.size == 1000
    part.write(DATA[1000:])
    finish(part, tmp_path)
    part.close()
    assert (tmp_path / "x.mp4").read_bytes() == DATA


# ---------------------------------------------------------------------------------------- sharing


def test_a_part_in_use_is_left_alone(tmp_path: Path) -> None:
    """Who finds a part in use takes another; each of them can be gone on with."""
    one, two = opened(tmp_path), opened(tmp_path)
    for part, size in ((one, 1000), (two, 2000)):
        part.restart(ETAG, len(DATA))
        part.write(DATA[:size])
    one.close()
    two.close()
    assert names(tmp_path) == {PART, NOTE, ".x.mp4.2.part", ".x.mp4.2.part.json"}
    first, second = opened(tmp_path), opened(tmp_path)
    assert (first.size, second.size) == (1000, 2000)
    first.close()
    second.close()


def test_a_stale_part_goes_with_the_file(tmp_path: Path) -> None:
    """Once the file exists, unused parts are removed; one in use is not."""
    one, two, three = (opened(tmp_path) for _ in range(3))
    for part in (one, two, three):
        part.restart(ETAG, len(DATA))
        part.write(DATA[:1000])
    one.close()
    two.write(DATA[1000:])
    finish(two, tmp_path)
    two.close()
    assert names(tmp_path) == {"x.mp4", ".x.mp4.3.part"}
    three.close()
    assert ".x.mp4.3.part" in names(tmp_path)
    remove_stale(tmp_path / "x.mp4")
    assert names(tmp_path) == {"x.mp4"}


def test_more_downloads_than_places(tmp_path: Path) -> None:
    """When all places are taken, a download has a part of its own, which it takes with it."""
    parts = [opened(tmp_path) for _ in range(6)]
    assert len(names(tmp_path)) == 6
    for part in parts:
        part.restart(ETAG, len(DATA))
        part.write(DATA[:1000])
    assert [part.stays for part in parts] == [True] * 4 + [False] * 2
    assert all(part.resumable for part in parts)
    parts[4].close()
    parts[5].write(DATA[1000:])
    finish(parts[5], tmp_path)
    parts[5].close()
    assert len(names(tmp_path)) == 5
    for part in parts[:4]:
        part.reset()
        part.close()
    assert names(tmp_path) == {"x.mp4"}


def test_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the platform has no locks, every part is of one download, and nothing is left."""
    leave(tmp_path)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    one, two = opened(tmp_path), opened(tmp_path)
    assert (one.size, two.size) == (0, 0)
    for part in (one, two):
        part.restart(ETAG, len(DATA))
        part.write(DATA)
    finish(one, tmp_path)
    assert len(names(tmp_path)) == 4
    one.close()
    two.close()
    assert names(tmp_path) == {"x.mp4", PART, NOTE}
    assert (tmp_path / "x.mp4").read_bytes() == DATA


def test_many_at_once(tmp_path: Path) -> None:
    """Many threads that fetch one file give it whole, each time, and leave nothing."""

    def fetch(number: int) -> None:
        for _ in range(40):
            part = opened(tmp_path)
            part.restart(ETAG, len(DATA))
            part.write(DATA[: 100 * number])
            part.write(DATA[100 * number :])
            finish(part, tmp_path)
            part.close()
            found = find_complete(tmp_path / "x.mp4")
            assert found == (len(DATA), sha256(DATA).hexdigest())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(fetch, range(6)))
    assert names(tmp_path) == {"x.mp4"}


# -------------------------------------------------------------------------------------------- names


def whole(folder: Path, data: bytes = DATA) -> Part:
    """Make a part that is complete."""
    part = opened(folder)
    part.restart(ETAG, len(data))
    part.write(data)
    part.sync()
    return part


@pytest.mark.parametrize("other", [b"", DATA[:10], DATA])
def test_a_file_that_was_cut_off_is_replaced(other: bytes, tmp_path: Path) -> None:
    """The beginning of a file, or the same file, gives up its name without being asked about."""
    (tmp_path / "x.mp4").write_bytes(other)
    part = whole(tmp_path)
    assert part.publish(tmp_path / "x.mp4", lambda _: False)
    part.close()
    assert (tmp_path / "x.mp4").read_bytes() == DATA
    assert names(tmp_path) == {"x.mp4"}


def test_another_file_keeps_its_name(tmp_path: Path) -> None:
    """Another file keeps its name unless it may be replaced; the part can have another one."""
    (tmp_path / "x.mp4").write_bytes(b"mine")
    part = whole(tmp_path)
    assert not part.publish(tmp_path / "x.mp4", lambda path: path.read_bytes() != b"mine")
    assert part.publish(tmp_path / "y.mp4", lambda _: False)
    part.close()
    assert (tmp_path / "x.mp4").read_bytes() == b"mine"
    assert (tmp_path / "y.mp4").read_bytes() == DATA
    assert names(tmp_path) == {"x.mp4", "y.mp4"}


def test_names_are_given_to_one(tmp_path: Path) -> None:
    """Of many that want a name at the same time, one gets it."""

    def save(number: int) -> bool:
        part = whole(tmp_path, bytes([number]) * 1000)
        try:
            return part.publish(tmp_path / "x.mp4", lambda _: False)
        finally:
            part.close()

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(save, range(1, 9)))
    assert given.count(True) == 1
    winner = given.index(True) + 1
    assert (tmp_path / "x.mp4").read_bytes() == bytes([winner]) * 1000
    assert names(tmp_path) == {"x.mp4"}


@pytest.mark.skipif(find_spec("fcntl") is None, reason="parts are not taken over without locks")
def test_a_part_that_has_its_name_already(tmp_path: Path) -> None:
    """A process that is killed while it gives the name leaves a second name: it is not written."""
    (tmp_path / "x.mp4").write_bytes(DATA)
    os.link(tmp_path / "x.mp4", tmp_path / PART)
    part = opened(tmp_path)
    part.restart(ETAG, 1)
    part.write(b"?")
    part.close()
    assert (tmp_path / "x.mp4").read_bytes() == DATA
    os.link(tmp_path / "x.mp4", tmp_path / PART)
    remove_stale(tmp_path / "x.mp4")
    assert names(tmp_path) == {"x.mp4"}


def test_notes_that_cannot_be_written(tmp_path: Path) -> None:
    """A file arrives although no note of it can be written on the way."""
    part = opened(tmp_path)
    (tmp_path / NOTE).mkdir()
    part.restart(ETAG, 5 * 1024**2 + 1)
    part.write(bytes(5 * 1024**2))
    assert part.size == 5 * 1024**2
    (tmp_path / NOTE).rmdir()
    part.close()


# ------------------------------------------------------------------------------- what is in the way


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the place of a part or a note leads nowhere: another place is taken."""
    (tmp_path / "in").mkdir()
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    (tmp_path / "in" / PART).symlink_to(mine)
    (tmp_path / "in" / ".x.mp4.2.part.json").symlink_to(mine)
    leave(tmp_path / "in")
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "in" / ".x.mp4.2.part").read_bytes() == DATA[:1000]


def test_a_link_in_place_of_the_file(tmp_path: Path) -> None:
    """A link that leads nowhere is no file that is there: it is replaced, not followed."""
    (tmp_path / "x.mp4").symlink_to(tmp_path / "elsewhere")
    assert find_complete(tmp_path / "x.mp4") is None
    leave(tmp_path)
    part = opened(tmp_path)
    part.write(DATA[1000:])
    finish(part, tmp_path)
    part.close()
    assert names(tmp_path) == {"x.mp4"}
    assert not (tmp_path / "x.mp4").is_symlink()


def test_a_folder_in_place_of_a_part(tmp_path: Path) -> None:
    """A folder in the place of a part does no harm."""
    (tmp_path / PART).mkdir()
    leave(tmp_path)
    assert size_found(tmp_path) == 1000


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Without the folder there is no part, and closing what was never opened is harmless."""
    part = Part(tmp_path / "no" / "x.mp4", "here")
    with pytest.raises(FileNotFoundError):
        part.lock()
    part.close()


def test_a_part_that_is_not_open(tmp_path: Path) -> None:
    """A part must be opened before it is written to."""
    with pytest.raises(ValueError, match="not open"):
        Part(tmp_path / "x.mp4", "here").write(b"x")


def test_a_name_that_cannot_be_given(tmp_path: Path) -> None:
    """A part that cannot have its name is removed, and the place is free again."""
    (tmp_path / "x.mp4" / "y").mkdir(parents=True)
    part = opened(tmp_path)
    part.restart(ETAG, 1)
    part.write(b"x")
    with pytest.raises(OSError, match=r"x\.mp4"):
        finish(part, tmp_path)
    part.close()
    assert names(tmp_path) == {"x.mp4"}


def test_the_usual_permissions(tmp_path: Path) -> None:
    """A file has the permissions of any other new file."""
    (tmp_path / "usual").touch()
    leave(tmp_path)
    usual = (tmp_path / "usual").stat().st_mode
    assert (tmp_path / PART).stat().st_mode == usual
