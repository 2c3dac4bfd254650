"""The fields that a mapping gives an input, and all that is wrong with them.

This is imported only when a mapping is parsed: most programs create inputs by their classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from kling_async._utils.text import format_value
from kling_async.errors import InputError, Problem
from kling_async.inputs.local_image import parse_image
from kling_async.inputs.rules import IMAGE_FIELDS, VENDOR_LISTS, broken_rules


def unpack_mapping(
    cls: type[Any], mapping: Mapping[str, object], *, local_images: bool
) -> tuple[dict[str, object], list[Problem]]:
    """Return the values of a mapping by field, and what is wrong with the vendor's lists in it.

    Args:
        cls: The class of the input.
        mapping: The mapping, which is not changed.
        local_images: As for :func:`~kling_async.parse_input`.
    """
    values, problems = dict(mapping), []
    for key, names in VENDOR_LISTS.items():
        urls = [name for name in names if name in cls._rules]
        if urls and key in values:  # otherwise it is an unknown key
            problems += _unpack_list(cls.mode, values, key, urls)
    images = values.keys() & cls._rules.keys() & set(IMAGE_FIELDS)
    values |= {name: parse_image(values[name], texts=local_images) for name in images}
    return values, problems


def checked_fields(
    cls: type[Any], values: dict[str, object], problems: list[Problem]
) -> dict[str, object]:
    """Return the fields of a class among some values, which are removed from the dictionary.

    Raises:
        InputError: ``problems`` is not empty, a key is unknown, a field is missing, or a value
            breaks its rule.
    """
    # A problem with image_urls leaves image_url without a value.
    optional = {VENDOR_LISTS[problem.field][0] for problem in problems}
    for name, expected in (("model", cls.model), ("mode", cls.mode)):
        if (value := values.pop(name, expected)) != expected:
            problems.append(Problem(name, f"must be {expected!r}", format_value(value)))
    fields = {name: values.pop(name) for name in cls._rules if name in values}
    problems += [
        Problem(str(key), f"unknown key for {cls.mode}", format_value(value))
        for key, value in values.items()
    ]
    problems += [
        Problem(field.name, "is required", "nothing")
        for field in attrs.fields(cls)
        if field.default is attrs.NOTHING and field.name not in fields.keys() | optional
    ]
    problems += broken_rules(cls._rules, fields)
    if problems:
        raise InputError(problems=problems)
    return fields


def _unpack_list(mode: str, values: dict[str, object], key: str, names: list[str]) -> list[Problem]:
    """Replace one of the vendor's lists by the fields of its URLs."""
    urls = values.pop(key)
    if not isinstance(urls, list | tuple) or not 1 <= len(urls) <= len(names):
        number = "exactly 1 URL" if len(names) == 1 else "1 or 2 URLs"
        return [Problem(key, f"{mode} takes {number}", format_value(urls))]
    if any(name in values for name in names):
        return [Problem(key, f"give either {key} or {names[0]}, not both", format_value(urls))]
    values.update(zip(names, urls, strict=False))
    return []
