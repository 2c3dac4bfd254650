from __future__ import annotations

import pytest

from kling_async import MasterTextToVideo, StandardImageToVideo
from kling_async.media import find_problems
from kling_async.results import MediaFacts, MediaProblem

P = MediaProblem
FOX = MasterTextToVideo("a fox", duration=5)


def facts(duration: float = 5.0, size: tuple[int, int] = (1280, 720)) -> MediaFacts:
    """Return the facts of a silent clip."""
    return MediaFacts(duration, *size, 24.0, has_sound=False)


class WithSound(MasterTextToVideo):
    """An input that asks for sound."""

    sound = True


@pytest.mark.parametrize(
    ("seconds", "is_wrong"),
    [(4.4, True), (4.6, False), (5.0, False), (5.1, False), (5.5, False), (5.6, True)],
)
def test_length(seconds: float, *, is_wrong: bool) -> None:
    """A clip may be half a second, or a tenth, shorter or longer than its input says."""
    assert find_problems(facts(seconds), FOX) == ((P.WRONG_LENGTH,) if is_wrong else ())
    ten = MasterTextToVideo("a fox", duration=10)
    assert find_problems(facts(9.1), ten) == find_problems(facts(10.9), ten) == ()
    assert find_problems(facts(11.1), ten) == (P.WRONG_LENGTH,)


@pytest.mark.parametrize(
    ("size", "ratio", "is_wrong"),
    [
        ((1280, 720), "16:9", False),
        ((1284, 716), "16:9", False),
        ((960, 960), "1:1", False),
        ((716, 1284), "9:16", False),
        ((1280, 720), "9:16", True),
        ((1280, 960), "16:9", True),
        ((0, 720), "1:1", True),
        ((1280, 0), "1:1", True),
    ],
)
def test_ratio(size: tuple[int, int], ratio: str, *, is_wrong: bool) -> None:
    """Width and height have the input's ratio to a twentieth."""
    request = MasterTextToVideo("a fox", aspect_ratio=ratio)  # type: ignore[arg-type]
    assert find_problems(facts(size=size), request) == ((P.WRONG_RATIO,) if is_wrong else ())


def test_sound() -> None:
    """A clip without sound is silent only if its input asked for sound."""
    asked = WithSound("a fox")
    assert find_problems(facts(), asked) == (P.SILENT,)
    assert find_problems(MediaFacts(5.0, 1280, 720, 24.0, has_sound=True), asked) == ()
    assert find_problems(facts(), FOX) == ()


def test_what_the_input_does_not_state() -> None:
    """The ratio of a video from an image is not judged, nor anything without an input."""
    image = StandardImageToVideo("pan", "https://example.com/a.jpg")
    assert find_problems(facts(size=(300, 700)), image) == ()
    assert find_problems(facts(99.0, (300, 700)), None) == ()
