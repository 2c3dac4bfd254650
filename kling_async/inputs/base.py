"""What all inputs share: validation at construction, and conversion from and to mappings.

These fields mean the same for all models that have them, unless a model's module says otherwise:

- ``image_url``: the image that the video begins with. Image URLs must be reachable by the
  service: JPEG, PNG or WebP of at most 10 MB.
- ``end_image_url``: the image that the video ends with.
- ``aspect_ratio``: ``"16:9"``, ``"9:16"`` or ``"1:1"``.
- ``provider``: ``"auto"``, ``"value"`` or ``"official"``; not sent unless set, since the
  vendor's newest pages make it a setting of the key.

Such lines also describe the fields in JSON schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Self, cast

import attrs
from attrs import frozen

from kling_async._utils.text import format_value
from kling_async.errors import InputError, Problem
from kling_async.inputs.rules import IMAGE_FIELDS, Rule, broken_rules

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

    from kling_async.inputs.local_image import LocalImage


_RULE = "kling_async.rule"  # the key of a field's rule in its attrs metadata


def ruled(rule: Rule) -> dict[str, Rule]:
    """Return the attrs metadata that gives a field its rule."""
    return {_RULE: rule}


@frozen
class Input:
    """A validated description of one video.

    Build one of its subclasses. Instances are immutable, hashable and picklable, and always
    valid. A field for the URL of an image also accepts a :class:`pathlib.Path`, bytes or an open
    binary file, if the client has an image store; see :mod:`kling_async.images`.

    Attributes:
        model: The model's name in the API.
        mode: The mode of the model.

    Raises:
        InputError: A value breaks a rule. The error names all broken rules.
    """

    model: ClassVar[str]
    mode: ClassVar[str]

    # The rule of each field, in the order of the fields.
    _rules: ClassVar[Mapping[str, Rule]] = {}

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        cls._rules = {field.name: field.metadata[_RULE] for field in attrs.fields(cls)}
        cls.__repr__ = Input.__repr__  # type: ignore[method-assign] # attrs has made another one

    def __repr__(self) -> str:
        # In the order in which they are passed: the prompt first, and what differs from a default.
        shown = [
            f"{field.name}={format_value(value)}" if field.kw_only else format_value(value)
            for field in sorted(attrs.fields(type(self)), key=lambda field: field.kw_only)
            if (value := getattr(self, field.alias)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __attrs_post_init__(self) -> None:
        values = {name: getattr(self, name) for name in self._rules}
        if problems := broken_rules(self._rules, values):
            raise InputError(problems=problems)

    @property
    def local_images(self) -> dict[str, LocalImage]:
        """The images that are pictures of this machine, by the names of their fields."""
        images = {}
        for name in IMAGE_FIELDS:
            if not isinstance(value := getattr(self, name, None), str | None):
                images[name] = value
        return images

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON: the model, the mode, and every field that is not None.

        :func:`~kling_async.parse_input` accepts them, if local images were read before; see
        :func:`kling_async.images.read_images`.
        """
        fields: dict[str, object] = {"model": self.model, "mode": self.mode}
        for name in self._rules:
            if (value := getattr(self, name)) is not None:
                fields[name] = value if isinstance(value, str | int | float) else value.to_text()
        return fields

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object], *, local_images: bool = False) -> Self:
        """Return the input that :meth:`to_dict` has converted to a mapping.

        ``model`` and ``mode`` may be omitted. Instead of ``image_url`` or ``video_url``, the
        mapping may contain the vendor's list ``image_urls`` or ``video_urls``.

        Args:
            mapping: The mapping.
            local_images: As for :func:`~kling_async.parse_input`.

        Raises:
            InputError: A key is unknown, a field is missing, or a value breaks its rule. The
                error names all problems.
        """
        from kling_async.inputs.mappings import unpack_mapping

        return cls._build(*unpack_mapping(cls, mapping, local_images=local_images))

    @classmethod
    def _build(cls, values: dict[str, object], problems: list[Problem]) -> Self:
        """Return the input with these values of fields, or raise InputError for all problems."""
        from kling_async.inputs.mappings import checked_fields

        fields = checked_fields(cls, values, problems)
        # The rules have proven the types of the parameters.
        return cast("Callable[..., Self]", cls)(**fields)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from kling_async.inputs._pydantic import input_core_schema

        # A body may not contain image_urls, so that the schema describes all valid bodies.
        return input_core_schema(cls, lambda cls, body: cls._build(body, []), handler)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        from kling_async.inputs._pydantic import input_json_schema

        return input_json_schema(cls, core_schema, handler)
