"""The models that have classes, and the class that a mapping selects.

The module of a model is imported when its classes are first needed: most programs use one model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final

from kling_async._utils.text import format_value
from kling_async.errors import InputError, Problem

DEFAULT_MODEL: Final = "kling-2-1"

# The mode that the API assumes; None if the contract names none.
DEFAULT_MODES: Final[Mapping[str, str | None]] = {
    "kling-2-1": "standard-image-to-video",
    "kling-2-5-turbo-pro": "text-to-video",
    "kling-2-6": "text-to-video",
    "kling-3-0-std": "text-to-video",
    "kling-3-0-turbo": None,
}


@cache
def classes_of(model: str) -> dict[str, type[Any]]:
    """Return the classes of a model by mode."""
    module = import_module(f"kling_async.inputs.{model.replace('-', '_')}")
    return {cls.mode: cls for cls in module.CLASSES}


def all_classes() -> list[type[Any]]:
    """Return the classes of all models."""
    return [cls for model in DEFAULT_MODES for cls in classes_of(model).values()]


def required_tags(cls: type[Any]) -> list[str]:
    """Return which of ``model`` and ``mode`` a mapping must have to select a class."""
    defaults = {"model": DEFAULT_MODEL, "mode": DEFAULT_MODES[cls.model]}
    return [name for name, default in defaults.items() if getattr(cls, name) != default]


def find_class(mapping: Mapping[str, object]) -> type[Any]:
    """Return the class that ``model`` and ``mode`` of a mapping select.

    Raises:
        InputError: The model or the mode is unknown.
    """
    model = mapping.get("model", DEFAULT_MODEL)
    if not isinstance(model, str) or model not in DEFAULT_MODES:
        rule = f"must be one of {', '.join(DEFAULT_MODES)}; or give any other model its fields"
        raise InputError(problems=[Problem("model", rule, format_value(model))])
    classes, default = classes_of(model), DEFAULT_MODES[model]
    mode = mapping.get("mode", default)
    if isinstance(mode, str) and mode in classes:
        return classes[mode]
    rule, seen = f"must be one of {', '.join(classes)}", format_value(mode)
    if "mode" not in mapping:
        rule, seen = f"is required for {model}, and {rule}", "nothing"
    raise InputError(problems=[Problem("mode", rule, seen)])
