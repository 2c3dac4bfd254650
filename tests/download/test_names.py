from __future__ import annotations

import re
import unicodedata
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kling_async import TaskRef
from kling_async.download import file_name
from kling_async.download.names import alternative_names, stem

REF = TaskRef("kling-2-1", "task_1")

# Keys that are nearly the same, or mean something to a file system, are drawn often.
PIECES = st.sampled_from(
    ["a", "A", "-2", "+2", "-02", ".", " ", "con", "NUL", "é", "e\u0301", "ﬁ", "fi", "ß", "ss", "/"]
)
KEYS = st.text(max_size=300) | st.lists(PIECES, max_size=4).map("".join)
NUMBERS = st.integers(1, 3) | st.integers(1, 10**6)


def seen_by_disks(name: str) -> set[str]:
    """Return the forms in which file systems may compare a name."""
    return {
        unicodedata.normalize("NFKC", unicodedata.normalize(form, name).casefold())
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    }


@given(one=st.tuples(KEYS, NUMBERS), other=st.tuples(KEYS, NUMBERS))
@example(one=("take", 2), other=("take-2", 1))
@example(one=("take", 2), other=("take+2", 1))
@example(one=("Take", 1), other=("take", 1))
@example(one=("é", 1), other=("e\u0301", 1))
@example(one=("a" * 120, 1), other=("a" * 121, 1))
@example(one=("\ud800", 1), other=("\ud801", 1))
def test_two_files_have_two_names(one: tuple[str, int], other: tuple[str, int]) -> None:
    """Different keys or numbers give names that no file system takes for the same."""
    apart = seen_by_disks(stem(*one)).isdisjoint(seen_by_disks(stem(*other)))
    assert apart == (one != other)


DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


@given(
    key=KEYS | st.sampled_from(["con", "CON.x", "nul.tar", "com1", "LPT¹", "aux ", "prn."]),
    number=NUMBERS,
)
def test_every_name_can_be_used(key: str, number: int) -> None:
    """A name stays in its folder, is visible, no device, and leaves room for what is added."""
    name = stem(key, number)
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", name)
    assert Path(name).name == name
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert not DEVICE.fullmatch(name)
    assert len(name) < 200


@pytest.mark.parametrize(
    "key", ["fox", "scene-10", "take-2", "a_b.c", "0123456789abcdef" * 2, "_x", "v1.2", "a" * 120]
)
def test_plain_keys(key: str) -> None:
    """A key of lower-case letters, digits and -_. is its own name; more files are numbered."""
    assert stem(key) == key
    assert stem(key, 2) == f"{key}+2"


@pytest.mark.parametrize(
    ("key", "begins"),
    [
        ("../../etc/passwd", "etc_passwd+"),
        ("...", "result+"),
        ("狐狸", "result+"),
        ("Fox", "Fox+"),
        ("café", "cafe+"),
        ("con", "_con+"),
        ("a" * 200, "a" * 120 + "+"),
    ],
)
def test_other_keys(key: str, begins: str) -> None:
    """What a name cannot hold is replaced, and a digest of the key follows."""
    assert re.fullmatch(re.escape(begins) + "[0-9a-f]{16}", stem(key))


@pytest.mark.parametrize(
    ("url", "suffix"),
    [
        ("https://x/a.webm?b=c.png#d.gif", ".webm"),
        ("https://x/a.MOV", ".mov"),
        ("https://x/a.exe", ".mp4"),
        ("https://x/", ".mp4"),
        ("http://x/..%2f.mp4/", ".mp4"),
    ],
)
def test_suffixes(url: str, suffix: str) -> None:
    """A file has the URL's suffix, if that is one of a video or picture."""
    assert file_name(REF, 0, url) == f"task_1{suffix}"
    assert file_name(REF, 1, url, name="fox") == f"fox+2{suffix}"


def test_alternatives() -> None:
    """The other names of a file are the same in every process, and others for another task."""
    first = list(islice(alternative_names("v1.2.mp4", REF), 3))
    assert first == list(islice(alternative_names("v1.2.mp4", REF), 3))
    assert first[0] == "v1.2.mp4"
    assert all(re.fullmatch(r"v1\.2\+[0-9a-f]{16}\.mp4", name) for name in first[1:])
    other = list(islice(alternative_names("v1.2.mp4", TaskRef("kling-2-1", "task_2")), 3))
    assert len({*first, *other}) == 5
