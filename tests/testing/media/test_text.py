from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.testing.media.text import BUILT_IN, LINE_HEIGHT, clean, drawable, fit


def test_clean_text_is_one_line() -> None:
    """Control characters and halves of pairs go, and spaces are single."""
    assert clean("  a\tb\n\n c\x00d \ud800e\u3000f ") == "a b c d e f"


def test_ascii_is_set_in_the_font_that_is_always_there() -> None:
    """Plain text needs no font of the system."""
    assert drawable("A fox, 100 %!") == ("A fox, 100 %!", BUILT_IN)


def test_without_a_font_accents_are_lost() -> None:
    """What no font can draw is made plain rather than boxes."""
    fonts = ("no-such-font.ttf", BUILT_IN)
    text = "Crème brûlée, straße, smørrebrød, Łódź, “œuf”…"
    plain = 'Creme brulee, strasse, smorrebrod, Lodz, "oeuf"...'
    assert drawable(text, fonts) == (plain, BUILT_IN)
    assert drawable("plain", fonts) == ("plain", BUILT_IN)


def test_the_largest_size_that_fits() -> None:
    """Short text is set large, longer text smaller."""
    short, _ = fit("a fox", 500, 200, (40, 20))
    long, lines = fit("a fox in fresh snow " * 6, 500, 200, (40, 20))
    assert (short.size, long.size) == (40, 20)
    assert len(lines) * 20 * LINE_HEIGHT <= 200


def test_text_beyond_the_box_ends_in_dots() -> None:
    """What fits in no size is cut, and it is seen that it was cut."""
    font, lines = fit("a fox in fresh snow " * 50, 300, 100, (30, 20))
    assert font.size == 20
    assert lines[-1].endswith("...")
    assert len(lines) == 3


def test_a_smaller_size_rather_than_a_broken_word() -> None:
    """A word is broken only if it is too wide at the smallest size."""
    whole, lines = fit("smorrebrod", 150, 400, (40, 20))
    assert (whole.size, lines) == (20, ["smorrebrod"])
    _, lines = fit("smorrebrod " + "x" * 60, 150, 400, (40, 20))
    assert "".join(lines) == "smorrebrod" + "x" * 60


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=300), st.integers(30, 400), st.integers(10, 200))
def test_lines_stay_in_the_box(text: str, width: int, height: int) -> None:
    """No text gets wider than its box, or higher where at least one line fits."""
    font, lines = fit(clean(text), width, height, (24, 12))
    assert all(font.getlength(line) <= width for line in lines if len(line) > 1)
    assert len(lines) * font.size * LINE_HEIGHT <= max(height, font.size * LINE_HEIGHT)


@pytest.mark.parametrize("width", [1, 5])
def test_a_box_too_narrow_for_anything(width: int) -> None:
    """Even without room for one letter something is given."""
    assert fit("abc def", width, 10, (20,))[1]
