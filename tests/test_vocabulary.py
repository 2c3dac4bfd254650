"""The words of the project: no private vocabulary, in text or in names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Figure

ROOT = Path(__file__).parents[1]
TEXT = {".css", ".html", ".js", ".jsonl", ".md", ".py", ".toml", ".yaml"}

# Words with which this project once said what "reports", "waits", "anyone" and others say.
WORDS = {
    "tell": "told|tells?|telling",
    "persons": "whoever|whom|nobody|somebody|anybody",
    "anew": "anew",
    "in hand": r"in\s+hand",
    "shall": "shall",
    "hear": "heard|hears",
    "hasten": "hastens?",
    "go on": r"(goes|go)\s+on",
    "stand": r"stands\s+(for|in|at)",
    "thereby": "thereby",
    # At the end of a clause: "looks at all tasks" is something else.
    "at all": r"at\s+all(?=\s*([.,;:)]|$))",
}
# `is None` is Python's; `is none` is not.
NONE = r"(is|are)\s+none"


def pattern() -> re.Pattern[str]:
    """Return what finds the words, also as parts of names such as `was_told`."""
    words = "|".join(f"(?:{alternatives})" for alternatives in WORDS.values())
    return re.compile(rf"(?<![A-Za-z])((?i:{words})|{NONE})(?![A-Za-z])", re.MULTILINE)


def find_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield the words that text should not have, with their lines. A line break is a space."""
    for match in pattern().finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())


def files(place: Path) -> list[Path]:
    """Return the text files in a folder, or the one file."""
    if place.is_file():
        return [place]
    return sorted(
        path
        for path in place.rglob("*")
        if path.suffix in TEXT and "_build" not in path.parts and path != Path(__file__)
    )


@pytest.mark.parametrize("place", ["kling_async", "docs", "README.md", "CONTRIBUTING.md", "tests"])
def test_plain_words(place: str, figure: Figure) -> None:
    """No file has a word of the private vocabulary."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in files(ROOT / place)
        for line, word in find_words(path.read_text(encoding="utf-8"))
    ]
    figure(f"words of the private vocabulary in {place}: {len(found)}")
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it is told\nand Tells them", [(1, "told"), (2, "Tells")]),
        ("def test_who_is_told() -> None:", [(1, "told")]),
        ("the items in\n    hand", [(1, "in hand")]),
        ("no error at all.", [(1, "at all")]),
        ("the address is none", [(1, "is none")]),
        ("it looks at all tasks; value is None; a handler in handler; marshall; retold", []),
    ],
)
def test_find_words(text: str, expected: list[tuple[int, str]]) -> None:
    """Words are found across lines, in names and in any case, but not inside other words."""
    assert list(find_words(text)) == expected
