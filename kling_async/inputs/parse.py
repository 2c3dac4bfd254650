"""What you may ask for: one class for each mode of each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kling_async.errors import InputError, Problem
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.inputs.rules import seen

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

# Every class, by its model and mode.
CLASSES: dict[tuple[str, str], type[Input]] = {
    (cls.model, cls.mode): cls
    for cls in (StandardImageToVideo, ProImageToVideo, MasterTextToVideo, MasterImageToVideo)
}
_MODELS = sorted({model for model, _ in CLASSES})

# The API's own default, where a mapping names no mode.
DEFAULT_MODES = {"kling-2-1": "standard-image-to-video"}


def parse_input(mapping: Mapping[str, object]) -> Input:
    """Build the input that a mapping describes, such as one line of a JSON Lines file.

    The class is picked by ``model`` and ``mode``. A mapping without a model means
    ``kling-2-1``; one without a mode means the API's default, ``standard-image-to-video``.

    Raises:
        InputError: The model or mode is unknown, a key is unknown, a field is missing or
            breaks its rule.
    """
    if not isinstance(mapping, Mapping):
        problem = Problem("input", "must be a mapping such as a JSON object", seen(mapping))
        raise InputError(problems=[problem])
    return pick(mapping).from_dict(mapping)


def pick(mapping: Mapping[str, object]) -> type[Input]:
    """Return the class that a mapping means.

    Raises:
        InputError: The model or mode is unknown.
    """
    model = mapping.get("model", "kling-2-1")
    if model not in _MODELS:
        problem = Problem("model", f"must be one of {', '.join(_MODELS)}", seen(model))
        raise InputError(problems=[problem])
    mode = mapping.get("mode", DEFAULT_MODES[str(model)])
    cls = CLASSES.get((str(model), mode)) if isinstance(mode, str) else None
    if cls is None:
        modes = ", ".join(mode for known, mode in CLASSES if known == model)
        raise InputError(problems=[Problem("mode", f"must be one of {modes}", seen(mode))])
    return cls
