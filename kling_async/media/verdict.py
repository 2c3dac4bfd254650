"""What is wrong with a saved video for its input. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from kling_async.results import MediaFacts, MediaProblem

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

# Services encode whole frames, and add one or two: a 5 s clip may have 5.04 or 5.1 s.
_LENGTH_SHARE = 0.1
_LENGTH_SECONDS = 0.5

# Sizes are rounded to even numbers or to blocks of 16 pixels.
_RATIO_SHARE = 0.05


def find_problems(facts: MediaFacts, request: Input | None) -> tuple[MediaProblem, ...]:
    """Return how a readable video differs from what its input has asked for.

    A property that the input does not state, such as the ratio of a video made from an image, is
    not judged.
    """
    length = getattr(request, "duration", None)
    ratio = getattr(request, "aspect_ratio", None)
    checks = {
        MediaProblem.WRONG_LENGTH: _is_other_length(facts.duration, length),
        MediaProblem.WRONG_RATIO: _is_other_ratio(facts.width, facts.height, ratio),
        MediaProblem.SILENT: getattr(request, "sound", None) is True and not facts.has_sound,
    }
    return tuple(problem for problem, is_wrong in checks.items() if is_wrong)


def _is_other_length(seconds: float, expected: int | None) -> bool:
    if expected is None:
        return False
    return abs(seconds - expected) > max(_LENGTH_SECONDS, expected * _LENGTH_SHARE)


def _is_other_ratio(width: int, height: int, expected: str | None) -> bool:
    if expected is None:
        return False
    across, _, down = expected.partition(":")
    wanted = int(across) / int(down)
    found = width / height if height else inf
    return abs(found / wanted - 1) > _RATIO_SHARE
