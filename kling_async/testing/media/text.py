"""Setting any text in a box: wrapped, and cut with an ellipsis if it does not fit."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Font = ImageFont.FreeTypeFont
SetText = tuple[Font, list[str]]
LINE_HEIGHT: Final = 1.32

BUILT_IN: Final = ""
"""The name of the font inside Pillow, which always exists and has ASCII only."""

# Searched in the font folders of the system (Linux, macOS, Windows); any may be absent.
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
_PLAIN: Final[Mapping[int, int | str]] = {
    **str.maketrans("øØłŁđĐð\u0131–—\u2018\u2019“”„«»×", 'oOlLdDdi--\'\'"""""x'),
    ord("ß"): "ss",
    ord("æ"): "ae",
    ord("Æ"): "AE",
    ord("œ"): "oe",
    ord("Œ"): "OE",
    ord("þ"): "th",
    ord("…"): "...",
}
_ELLIPSIS: Final = "..."
# Characters beyond this are never shown.
_MOST_CHARACTERS: Final = 1200


def clean(text: str) -> str:
    """Return text that can be drawn: no control characters, no halves of pairs, single spaces."""
    kept = (" " if unicodedata.category(c)[0] in "CZ" else c for c in text[:_MOST_CHARACTERS])
    return " ".join("".join(kept).split())


def drawable(text: str, fonts: Sequence[str] = _FONTS) -> tuple[str, str]:
    """Return a cleaned text and the name of the first font that has all of its characters.

    If no font has them, the text loses its accents and is set in Pillow's own font.
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
    """Return lines of at most a width, and whether a word had to be broken for that."""
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
