"""What all inputs share: rules applied at construction, plain mappings in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Self, cast

import attrs
from attrs import frozen

from kling_async.errors import InputError, Problem
from kling_async.inputs._rules import Rule, seen

Provider = Literal["auto", "value", "official"]

# Where a field's rule lies in its attrs metadata.
_RULE = "kling_async.rule"

# The vendor's list of images, spread over our two fields.
_IMAGE_FIELDS = ("image_url", "end_image_url")


def ruled(rule: Rule) -> dict[str, Rule]:
    """Return the attrs metadata that gives a field its rule."""
    return {_RULE: rule}


@frozen
class Input:
    """A validated description of one video. Build one of its subclasses.

    Instances are immutable, hashable and picklable, and hold only what the contract allows.

    Attributes:
        model: The model's name in the API.
        mode: The model's mode that this class stands for.
    """

    model: ClassVar[str]
    mode: ClassVar[str]

    _names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        cls._names = tuple(field.name for field in attrs.fields(cls))

    def __attrs_post_init__(self) -> None:
        values = {name: getattr(self, name) for name in self._names}
        if problems := _broken(type(self), values):
            raise InputError(problems=problems)

    def to_dict(self) -> dict[str, str | int | float]:
        """Return plain values, as for a line of JSON: model, mode, every field that is set."""
        fields: dict[str, str | int | float] = {"model": self.model, "mode": self.mode}
        for name in self._names:
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        return fields

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object]) -> Self:
        """Build from what :meth:`to_dict` gave.

        ``model`` and ``mode`` may be left out; given, they must be this class's own. The
        vendor's ``image_urls`` list is understood in place of ``image_url``.

        Raises:
            InputError: A key is unknown, a field is missing or breaks its rule; all are named.
        """
        names = cls._names
        values, problems = _spread_images(cls, mapping, names)
        for name, own in (("model", cls.model), ("mode", cls.mode)):
            if (value := values.pop(name, own)) != own:
                problems.append(Problem(name, f"must be {own!r}", seen(value)))
        known = {name: values.pop(name) for name in names if name in values}
        problems += [
            Problem(str(key), f"unknown key for {cls.mode}", seen(value))
            for key, value in values.items()
        ]
        complained = {problem.field for problem in problems}
        problems += [
            Problem(field.name, "is required", "nothing")
            for field in attrs.fields(cls)
            if field.default is attrs.NOTHING
            and field.name not in known
            and not complained & {field.name, "image_urls"}
        ]
        problems += _broken(cls, known)
        if problems:
            raise InputError(problems=problems)
        # The rules have just proven the types that the signature asks for.
        return cast("Callable[..., Self]", cls)(**known)


def _broken(cls: type[Input], values: Mapping[str, object]) -> list[Problem]:
    """Return the problems of those fields that have a value."""
    return [
        Problem(field.name, broken, seen(values[field.name]))
        for field in attrs.fields(cls)
        if field.name in values
        and (broken := field.metadata[_RULE](values[field.name])) is not None
    ]


def _spread_images(
    cls: type[Input], mapping: Mapping[str, object], names: tuple[str, ...]
) -> tuple[dict[str, object], list[Problem]]:
    """Copy the mapping with ``image_urls`` spread over the class's own image fields."""
    values = dict(mapping)
    images = [name for name in _IMAGE_FIELDS if name in names]
    if not images or "image_urls" not in values:
        return values, []  # where no image is due, image_urls is an unknown key
    urls = values.pop("image_urls")
    if isinstance(urls, list | tuple) and 1 <= len(urls) <= len(images):
        if not any(name in values for name in images):
            values.update(zip(images, urls, strict=False))
            return values, []
        rule = "give either image_urls or image_url, not both"
    else:
        many = "exactly 1 URL" if len(images) == 1 else "1 or 2 URLs"
        rule = f"{cls.mode} takes {many}"
    return values, [Problem("image_urls", rule, seen(urls))]
