"""Inputs from mappings of any model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kling_async._utils.text import format_value
from kling_async.errors import InputError, Problem
from kling_async.inputs.registry import find_class

if TYPE_CHECKING:
    from kling_async.inputs.base import Input


def parse_input(mapping: Mapping[str, object], *, local_images: bool = False) -> Input:
    """Return the input that a mapping describes, such as a line of a JSON Lines file.

    ``model`` and ``mode`` select the class. The default model is ``kling-2-1``, and its default
    mode is the API's, ``standard-image-to-video``. A mapping with ``fields`` is a
    :class:`~kling_async.inputs.raw.RawInput`, whatever its model.

    Args:
        mapping: The mapping.
        local_images: Accept the text of local images, as ``to_dict`` writes it. It names a file of
            this machine, which is read when the input is submitted: for mappings of your own only,
            never for those of a web request.

    Raises:
        InputError: The model, the mode or a key is unknown, a field is missing, or a value
            breaks its rule.
    """
    if not isinstance(mapping, Mapping):
        rule = "must be a mapping such as a JSON object"
        raise InputError(problems=[Problem("input", rule, format_value(mapping))])
    cls: type[Input]
    if "fields" in mapping:
        from kling_async.inputs.raw import RawInput

        cls = RawInput
    else:
        cls = find_class(mapping)
    return cls.from_dict(mapping, local_images=local_images)
