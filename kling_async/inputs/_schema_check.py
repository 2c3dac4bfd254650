"""The check of a raw input against a JSON schema that may be stale, broken or hostile.

The package ``jsonschema`` does the work, with limits that it does not have itself:

- A reference must be to a place in the schema. jsonschema may fetch others from the network.
- Regular expressions are ignored, since one can take years, and so are the keywords whose work
  cannot be counted.
- Each evaluation of a keyword costs about as much as it has to look at, and the sum is bounded: a
  small schema can ask for endless work by references.
- Values that appear in messages are shortened before they are formatted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from kling_async._utils.extras import missing_extra
from kling_async._utils.text import format_value, printable
from kling_async.errors import ConfigurationError, InputError, Problem
from kling_async.inputs.json_text import to_json_text

if TYPE_CHECKING:
    from jsonschema import ValidationError  # type: ignore[import-untyped]
    from jsonschema.protocols import Validator  # type: ignore[import-untyped]

LARGEST: Final = 64_000  # characters of a schema: the check of the schema itself takes a second
_MOST_WORK: Final = 100_000  # about a second

_MOST_PROBLEMS: Final = 20
_LONGEST_MESSAGE: Final = 200
_SHOWN: Final = 8  # elements of a list, or keys of an object, that a message shows

_IGNORED: Final = (
    *("pattern", "patternProperties", "format", "uniqueItems"),
    *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"),
)
# The values of longer lists of any values are compared with each other, one by one.
_LONGEST_MIXED: Final = 100

# They select other classes and documents in the midst of a schema.
_STRIPPED: Final = frozenset({"$schema", "$id"})


def check_fields(fields: Mapping[str, object], schema: Mapping[str, object]) -> None:
    """Raise InputError if fields do not satisfy a schema; see ``RawInput.check``."""
    try:
        import jsonschema  # noqa: F401 - used below
    except ImportError:
        raise missing_extra("schema", "a check against a JSON schema needs jsonschema") from None
    try:
        text = to_json_text(schema, "schema")
    except InputError as error:
        raise ConfigurationError(f"not a JSON schema: {error}") from None
    if len(text) > LARGEST:
        raise ConfigurationError(
            f"the schema is too large: {len(text):,} of {LARGEST:,} characters"
        )
    loaded = json.loads(text)
    try:
        draft = _find_draft(loaded.get("$schema"))
        errors = _errors(draft, _copy(loaded, _STRIPPED), fields)
        problems = [_problem(error) for error in islice(errors, _MOST_PROBLEMS)]
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken schema may cause any
        reason = f"{type(error).__name__}: {str(error).split(chr(10), 1)[0]}"
        raise ConfigurationError(f"the schema cannot be used: {format_value(reason)}") from None
    if problems:
        raise InputError(problems=problems)


def _find_draft(url: object) -> type[Validator]:
    """Return the class for the draft that a schema names; the latest one for an older draft."""
    import jsonschema

    drafts = (jsonschema.Draft7Validator, jsonschema.Draft201909Validator)
    latest: type[Validator] = jsonschema.Draft202012Validator
    return next((draft for draft in drafts if draft.ID_OF(draft.META_SCHEMA) == url), latest)


def _errors(
    draft: type[Validator], schema: object, fields: Mapping[str, object]
) -> Iterator[ValidationError]:
    """Yield the errors of fields, with bounded work; raise SchemaError for a wrong schema."""
    from jsonschema import FormatChecker
    from jsonschema.validators import extend  # type: ignore[import-untyped]
    from referencing import Registry

    # One of the formats is a regular expression, which would be compiled.
    draft.check_schema(schema, format_checker=FormatChecker(formats=()))
    work = _Work()
    keywords: dict[str, Callable[..., object]] = {
        name: partial(work.evaluate, name, check) for name, check in draft.VALIDATORS.items()
    }
    for name in _IGNORED:
        keywords[name] = _ignore
    keywords["multipleOf"] = partial(work.evaluate, "multipleOf", _check_multiple)
    # A registry of one's own retrieves nothing.
    validator = extend(draft, keywords)(schema, registry=Registry())
    yield from validator.iter_errors(_copy(fields, frozenset()))


class _Work:
    """Counts the work of a check."""

    def __init__(self) -> None:
        self._left = _MOST_WORK

    def evaluate(
        self,
        name: str,
        check: Callable[..., Iterable[ValidationError] | None],
        *arguments: Any,  # noqa: ANN401 - validator, keyword's value, instance, schema: JSON
    ) -> Iterable[ValidationError]:
        """Evaluate a keyword, unless too much work has been done."""
        _, value, instance, schema = arguments
        self._left -= 1 + (_size(value, deep=name in {"const", "enum"}) + _size(instance)) // 10
        if self._left < 0:
            raise ConfigurationError("the schema takes too much work to check")
        if name == "$ref" and value != "#" and not value.startswith("#/"):
            place = format_value(value)
            raise ConfigurationError(f"the schema refers to another document: {place}")
        if name == "additionalProperties" and "patternProperties" in schema:
            return ()
        return check(*arguments) or ()


def _check_multiple(
    _: object, divisor: float, instance: object, __: object
) -> Iterator[ValidationError]:
    """Divide numbers as JSON writes them; as binary fractions, 0.3 is no multiple of 0.1."""
    from jsonschema import ValidationError

    if isinstance(instance, int | float) and not isinstance(instance, bool):
        quotient = Fraction(repr(instance)) / Fraction(repr(divisor))
        if quotient.denominator != 1:
            yield ValidationError(f"{instance!r} is not a multiple of {divisor!r}")


def _ignore(*_: object) -> None:
    """Evaluate a keyword that is ignored."""


def _problem(error: ValidationError) -> Problem:
    place = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path
    )
    message = printable(error.message)
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}…"
    return Problem(f"fields{printable(place)}", message, format_value(error.instance))


# Values whose messages are short ----------------------------------------------------------------


class _ShortText(str):
    """Text of which messages show the beginning."""

    __slots__ = ()

    def __repr__(self) -> str:
        return format_value(str(self))


class _ShortList(list[object]):
    """An array that knows how many values are in it, of which messages show the first."""

    size: int = 0

    def __repr__(self) -> str:
        shown = [_format_inner(value) for value in islice(self, _SHOWN)]
        return f"[{', '.join([*shown, *(['…'] if len(self) > _SHOWN else [])])}]"


class _ShortDict(dict[str, object]):
    """An object that knows how many values are in it, of which messages show the first."""

    size: int = 0

    def __repr__(self) -> str:
        shown = [f"{key!r}: {_format_inner(self[key])}" for key in islice(self, _SHOWN)]
        return f"{{{', '.join([*shown, *(['…'] if len(self) > _SHOWN else [])])}}}"


def _format_inner(value: object) -> str:
    match value:
        case list():
            return "[…]"
        case dict():
            return "{…}"
        case _:
            return repr(value)


def _copy(value: object, stripped: frozenset[str]) -> Any:  # noqa: ANN401 - JSON
    """Return values of JSON as values whose messages are short, without texts of some names."""
    match value:
        case str():
            return _ShortText(value)
        case list():
            if stripped and len(value) > _LONGEST_MIXED and not _is_sortable(value):
                raise ConfigurationError("the schema has a long list of mixed values")
            array = _ShortList(_copy(each, stripped) for each in value)
            array.size = len(array) + sum(_size(each, deep=True) for each in array)
            return array
        case dict():
            members = _ShortDict(
                (_ShortText(key), _copy(each, stripped))
                for key, each in value.items()
                if not (key in stripped and isinstance(each, str))
            )
            members.size = len(members) + sum(_size(each, deep=True) for each in members.values())
            return members
        case _:
            return value


def _is_sortable(values: list[object]) -> bool:
    kinds = {type(value) for value in values}
    return kinds == {str} or kinds <= {int, float}


def _size(value: object, *, deep: bool = False) -> int:
    """Return how many values are in a value, or how long a text is."""
    match value:
        case _ShortList() | _ShortDict():
            return value.size if deep else len(value)
        case str():
            return len(value)
        case _:
            return 0
