"""Setting any text in a box: wrapped, and cut with an ellipsis where it does not fit."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Font = ImageFont.FreeTypeFont
SetText = tuple[Font, list[str]]
LINE_HEIGHT: Final = 1.32

BUILT_IN: Final = ""
"""Stands for the font inside Pillow, which is always there and knows ASCII only."""

# Looked for where the system keeps its fonts (Linux, macOS, Windows); any may be absent.
_FONTS: Final = (
    BUILT_IN,
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
)
# No font has a glyph for this: what a font draws here, it draws for everything it lacks.
_NO_CHARACTER: Final = "\uffff"
# Letters that do not fall apart into a letter and a mark.
_PLAIN: Final = str.maketrans(
    {
        "ß": "ss",
        "æ": "ae",
        "Æ": "AE",
        "œ": "oe",
        "Œ": "OE",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "đ": "d",
        "Đ": "D",
        "ð": "d",
        "þ": "th",
        "\u0131": "i",
        "–": "-",
        "—": "-",
        "…": "...",
        "\u2018": "'",
        "\u2019": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "«": '"',
        "»": '"',
        "×": "x",
    }
)
_ELLIPSIS: Final = "..."
# Looking further than this cannot change what is shown.
_MOST_CHARACTERS: Final = 1200


def clean(text: str) -> str:
    """Give text that can be drawn: no control characters, no halves of pairs, single spaces."""
    kept = (" " if unicodedata.category(c)[0] in "CZ" else c for c in text[:_MOST_CHARACTERS])
    return " ".join("".join(kept).split())


def drawable(text: str, fonts: Sequence[str] = _FONTS) -> tuple[str, str]:
    """Choose the first font that has every character of a cleaned text: text and font's name.

    Where none has, the text loses its accents and is set in Pillow's own font.
    """
    needed = set(text) - set(" ")
    for name in fonts:
        try:
            font = _font(name, 20)
        except OSError:
            continue
        missing = _drawn(_NO_CHARACTER, font)
        if all(_drawn(character, font) != missing for character in needed):
            return text, name
    parts = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    return "".join(c for c in parts if not unicodedata.combining(c)), BUILT_IN


def fit(text: str, width: int, height: int, sizes: Sequence[int]) -> SetText:
    """Set cleaned text at the largest of `sizes` (largest first) that fits, or cut it."""
    text, name = drawable(text)
    for size in sizes:
        font = _font(name, size)
        lines, broken = _wrap(text, width, font)
        if len(lines) <= _room(height, size) and not broken:
            return font, lines
    smallest = sizes[-1]
    font = _font(name, smallest)
    lines, _ = _wrap(text, width, font)
    room = max(1, _room(height, smallest))
    if len(lines) <= room:
        return font, lines
    lines = lines[:room]
    while lines[-1] and font.getlength(lines[-1] + _ELLIPSIS) > width:
        lines[-1] = lines[-1][:-1].rstrip()
    lines[-1] += _ELLIPSIS
    return font, lines


def _font(name: str, size: int) -> Font:
    if name != BUILT_IN:
        return ImageFont.truetype(name, size)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # pragma: no cover - all wheels have FreeType
        raise TypeError("Pillow was built without FreeType")
    return font


def _drawn(character: str, font: Font) -> bytes:
    image = Image.new("L", (40, 40))
    ImageDraw.Draw(image).text((4, 4), character, fill=255, font=font)
    return image.tobytes()


def _room(height: int, size: int) -> int:
    return int(height / (size * LINE_HEIGHT))


def _wrap(text: str, width: int, font: Font) -> tuple[list[str], bool]:
    """Give lines of at most a width, and whether a word had to be broken for that."""
    lines: list[str] = []
    line = ""
    broken = False
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *whole, line = _broken(word, font, width)
        broken = broken or bool(whole)
        lines += whole
    return [*lines, line], broken


def _broken(word: str, font: Font, width: int) -> Iterator[str]:
    """Break a word that is wider than a line, as words of scripts without spaces are."""
    part = ""
    for character in word:
        if part and font.getlength(part + character) > width:
            yield part
            part = ""
        part += character
    yield part
