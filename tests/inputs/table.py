"""The table of rules in the reference, made from the rules; run it to write the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from kling_async.inputs.registry import DEFAULT_MODES, classes_of
from tests.inputs.strategies import rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.inputs.base import Input
    from kling_async.inputs.rules import Rule

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "inputs.md"

_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def rendered(text: str) -> str:
    """Return the text of the page with its tables made again; all else is written by hand."""
    tables = iter(["".join(_lines(model)) for model in DEFAULT_MODES])
    return _TABLE.sub(lambda _: next(tables), text)


def _lines(model: str) -> Iterator[str]:
    classes: list[type[Input]] = [*classes_of(model).values()]
    fields = dict.fromkeys(
        name for required in (True, False) for cls in classes for name in _names(cls, required)
    )
    yield _line("field", "rule", *(f"`{cls.__name__}`" for cls in classes))
    yield _line(*["---"] * (2 + len(classes)))
    yield _line("`mode`", "", *(f"`{cls.mode}`" for cls in classes))
    for name in fields:
        rules: list[Rule] = [rules_of(cls)[name] for cls in classes if name in rules_of(cls)]
        (rule,) = {describe(rule.accepted) for rule in rules}
        yield _line(f"`{name}`", rule, *(_presence(cls, name) for cls in classes))


def _names(cls: type[Input], required: bool) -> list[str]:  # noqa: FBT001 - of a comprehension
    return [
        field.name for field in attrs.fields(cls) if (field.default is attrs.NOTHING) == required
    ]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")


def _presence(cls: type[Input], name: str) -> str:
    """Return what a class makes of a field: its default, or whether it is required."""
    if name not in rules_of(cls):
        return "–"
    default = getattr(attrs.fields(cls), name).default
    if default is attrs.NOTHING:
        return "required"
    return "optional" if default is None else f"`{json.dumps(default)}`"


def describe(accepted: Any) -> str:  # noqa: ANN401 - a JSON schema
    """Return the words for the JSON schema of a rule."""
    if "enum" in accepted:
        return ", ".join(f"`{json.dumps(value)}`" for value in accepted["enum"])
    patterns = {
        "multipleOf": "number from {minimum} to {maximum} in steps of {multipleOf}",
        "minimum": "integer from {minimum} to {maximum}",
        "maxLength": "text of {minLength:,} to {maxLength:,} characters",
        "minLength": "text of at least {minLength} character; the most is **unknown**",
        "x-unknown": "**unknown**: any value is sent",
        "format": "http(s) URL",
        "type": "`true`, `false`",
    }
    words = next(words for name, words in patterns.items() if name in accepted)
    return words.format(**accepted)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")
