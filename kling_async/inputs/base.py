"""What all inputs share: rules applied at construction, plain mappings in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypeVar, cast

import attrs
from attrs import frozen

from kling_async.errors import InputError, Problem
from kling_async.inputs.rules import Rule, seen

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

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
    """A validated description of one video.

    Build one of its subclasses. Instances are immutable, hashable and picklable, and hold only
    what the contract allows.

    Attributes:
        model: The model's name in the API.
        mode: The model's mode that this class stands for.
    """

    model: ClassVar[str]
    mode: ClassVar[str]

    # By name, in the order of the fields.
    _rules: ClassVar[Mapping[str, Rule]] = {}

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        cls._rules = {field.name: field.metadata[_RULE] for field in attrs.fields(cls)}

    def __attrs_post_init__(self) -> None:
        problems = [
            Problem(name, broken, seen(getattr(self, name)))
            for name, rule in self._rules.items()
            if (broken := rule(getattr(self, name))) is not None
        ]
        if problems:
            raise InputError(problems=problems)

    def to_dict(self) -> dict[str, str | int | float]:
        """Return plain values, as for a line of JSON: model, mode, every field that is set."""
        fields: dict[str, str | int | float] = {"model": self.model, "mode": self.mode}
        for name in self._rules:
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
        values, problems = _spread_images(cls, mapping)
        return build(cls, values, problems)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from kling_async.inputs._pydantic import input_core_schema

        return input_core_schema(cls, handler)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        from kling_async.inputs._pydantic import input_json_schema

        return input_json_schema(cls, core_schema, handler)


_I = TypeVar("_I", bound=Input)


def build(cls: type[_I], values: dict[str, object], problems: list[Problem]) -> _I:
    """Build an input from its fields, which are used up, unless it has problems already.

    Raises:
        InputError: It has, or a key is unknown, a field is missing or breaks its rule.
    """
    spared = {"image_url"} if problems else set()  # it is not there, and that has been said
    for name, own in (("model", cls.model), ("mode", cls.mode)):
        if (value := values.pop(name, own)) != own:
            problems.append(Problem(name, f"must be {own!r}", seen(value)))
    known = {name: values.pop(name) for name in cls._rules if name in values}
    problems += [
        Problem(str(key), f"unknown key for {cls.mode}", seen(value))
        for key, value in values.items()
    ]
    problems += [
        Problem(field.name, "is required", "nothing")
        for field in attrs.fields(cls)
        if field.default is attrs.NOTHING and field.name not in known.keys() | spared
    ]
    problems += [
        Problem(name, broken, seen(value))
        for name, value in known.items()
        if (broken := cls._rules[name](value)) is not None
    ]
    if problems:
        raise InputError(problems=problems)
    # The rules have just proven the types that the signature asks for.
    return cast("Callable[..., _I]", cls)(**known)


def _spread_images(
    cls: type[Input], mapping: Mapping[str, object]
) -> tuple[dict[str, object], list[Problem]]:
    """Copy the mapping with ``image_urls`` spread over the class's own image fields."""
    values = dict(mapping)
    images = [name for name in _IMAGE_FIELDS if name in cls._rules]
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
