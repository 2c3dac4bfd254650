"""The input of any model of the service, sent as it is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Self

from attrs import field, frozen

from kling_async._utils.text import format_value
from kling_async.errors import InputError, Problem
from kling_async.inputs.base import Input, ruled
from kling_async.inputs.json_text import to_json_text
from kling_async.inputs.rules import UNKNOWN, Rule, or_none, text
from kling_async.results import MODEL_NAME


def _check_model(value: object) -> str | None:
    valid = isinstance(value, str) and MODEL_NAME.fullmatch(value)
    return None if valid else "must be a model's name, such as kling-2-1"


_MODEL = ruled(Rule(_check_model, {"type": "string", "pattern": f"^{MODEL_NAME.pattern}$"}))
_FIELDS = ruled(Rule(lambda _: None, {"type": "object", UNKNOWN: "rule"}))  # see to_json_text
_PROVIDER = ruled(or_none(text(1, 100)))
_LONGEST_MODE = 100
_KEYS = ("model", "fields", "provider")


@frozen
class RawInput(Input):
    """An input for any model of the service: its fields are sent as they are given.

    Only what JSON cannot express is refused: the service knows the rules of its models. The order
    of keys does not matter to equality, and 5 is not 5.0.

    Attributes:
        model: The model's name in the API.
        json: The fields as JSON text, with sorted keys.
        provider: The provider, if it is set.

    Raises:
        InputError: A value is not JSON: a number is not finite, a key is not text, the nesting is
            deeper than 32, or the text is longer than 1,000,000 characters.
    """

    model: str = field(metadata=_MODEL)  # type: ignore[misc]  # of the class elsewhere
    json: str = field(alias="fields", converter=to_json_text, metadata=_FIELDS)
    provider: str | None = field(default=None, metadata=_PROVIDER)

    @property
    def fields(self) -> dict[str, object]:
        """The ``input`` of the submit: a new dictionary each time."""
        found: dict[str, object] = json.loads(self.json)
        return found

    @property
    def mode(self) -> str:  # type: ignore[override]  # of the class elsewhere
        """The mode in the fields; empty if it is missing or does not fit on a line."""
        mode = self.fields.get("mode")
        fits = isinstance(mode, str) and len(mode) <= _LONGEST_MODE and mode.isprintable()
        return str(mode) if fits else ""

    @property
    def duration(self) -> int | None:
        """The duration in the fields, if it is an integer."""
        duration = self.fields.get("duration")
        return duration if type(duration) is int else None

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON: the model, the fields, and the provider if it is set."""
        provider = {} if self.provider is None else {"provider": self.provider}
        return {"model": self.model, "fields": self.fields, **provider}

    @classmethod
    def _build(cls, values: dict[str, object], problems: list[Problem]) -> Self:
        """Return the input with these values.

        Raises:
            InputError: A key is unknown, ``model`` or ``fields`` is missing, or a value is not
                JSON.
        """
        rule = "unknown key beside fields: what is sent to the model belongs into fields"
        problems += [
            *(Problem(str(k), rule, format_value(values[k])) for k in values if k not in _KEYS),
            *(Problem(key, "is required", "nothing") for key in _KEYS[:2] if key not in values),
        ]
        if problems:
            raise InputError(problems=problems)
        return cls(**values)  # type: ignore[arg-type]  # the rules check the types

    def check(self, schema: Mapping[str, object]) -> None:
        """Raise InputError if the fields do not satisfy a JSON schema of the model.

        A check before paying, not a proof: the service decides. The schema may come from the
        network. Nothing is fetched, and the work is bounded: ``pattern``, ``format`` and a few
        other keywords are ignored.

        Args:
            schema: The schema of the ``input`` of a submit.

        Raises:
            InputError: The fields do not satisfy it; the error names up to 20 problems.
            ConfigurationError: The schema is invalid, refers to another document, or takes too
                much work.
            MissingExtraError: The extra ``schema`` is not installed.
        """
        from kling_async.inputs._schema_check import check_fields

        check_fields(self.fields, schema)
