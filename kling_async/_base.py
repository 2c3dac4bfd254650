"""What errors and results have in common: the reference of a task, and the base of all errors.

An error carries a :class:`TaskRef`, and an invalid ``TaskRef`` raises an error. So that no two
modules import each other, both are defined here. Import them from ``kling_async.errors`` and
``kling_async.results``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypedDict

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

# Task ids are opaque. Only what could not be stored on one line of text is invalid.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TASK_ID = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")

_REF = "must be a reference such as kling-2-1/task_12345678"


class ErrorFacts(TypedDict, total=False):
    """The keyword arguments of every error; see :class:`KlingError`."""

    may_have_charged: bool
    retryable: bool
    ref: TaskRef | None
    verdict: str


class KlingError(Exception):
    """The base class of all exceptions that this package raises.

    Attributes:
        may_have_charged: The failed call may have started a task that is billed.
        retryable: The same call may succeed later without any change.
        ref: The remote task concerned, if there is one. It can be attached again.
        verdict: What the outcome of a failed request proves: one of the verdicts in
            ``docs/explanation/how-money-is-kept.md``, such as ``"busy"``.
    """

    __module__ = "kling_async.errors"

    may_have_charged: bool = False
    retryable: bool = False
    ref: TaskRef | None = None
    verdict: str = ""

    # To unpickle an error, Python calls the class with the message only and then restores the
    # attributes. So every keyword argument of every subclass has a default.
    def __init__(self, message: str = "", **facts: Unpack[ErrorFacts]) -> None:
        super().__init__(message)
        self.may_have_charged = facts.get("may_have_charged", self.may_have_charged)
        self.retryable = facts.get("retryable", self.retryable)
        self.ref = facts.get("ref")
        self.verdict = facts.get("verdict", self.verdict)


@frozen
class Problem:
    """One broken rule of an input: the field, the rule, and the value that breaks it."""

    __module__ = "kling_async.errors"

    field: str
    rule: str
    seen: str

    def __str__(self) -> str:
        return f"{self.field}: {self.rule} (seen: {self.seen})"


class InputError(KlingError, ValueError):
    """An input breaks one or more rules. Nothing was sent.

    Attributes:
        problems: All rules that it breaks.
    """

    __module__ = "kling_async.errors"

    def __init__(self, message: str = "", *, problems: Iterable[Problem] = ()) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(message or "; ".join(map(str, self.problems)))


@frozen(cache_hash=True)  # it is the key of many mappings
class TaskRef:
    """A reference to a remote task, valid in any process and at any time.

    ``str(ref)`` is ``model/task_id`` in all versions; :meth:`parse` reads it.

    Raises:
        InputError: The model or the task id is invalid.
    """

    __module__ = "kling_async.results"

    model: str
    task_id: str

    def __attrs_post_init__(self) -> None:
        problems = []
        if not isinstance(self.model, str) or not MODEL_NAME.fullmatch(self.model):
            rule = "a model's name, such as kling-2-1"
            problems.append(Problem("model", rule, repr(self.model)[:80]))
        if not isinstance(self.task_id, str) or not _TASK_ID.fullmatch(self.task_id):
            rule = "1 to 256 characters without spaces"
            problems.append(Problem("task_id", rule, repr(self.task_id)[:80]))
        if problems:
            raise InputError(problems=problems)

    def __str__(self) -> str:
        return f"{self.model}/{self.task_id}"

    @classmethod
    def parse(cls, text: str) -> TaskRef:
        """Return the reference whose ``str()`` is ``text``.

        Raises:
            InputError: The text is not a reference.
        """
        if not isinstance(text, str) or "/" not in text:
            raise InputError(problems=[Problem("ref", _REF, repr(text)[:80])])
        model, _, task_id = text.strip().partition("/")
        return cls(model, task_id)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from kling_async._utils.pydantic import text_core_schema

        return text_core_schema(cls, cls.parse, _REF)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        from kling_async._utils.pydantic import text_json_schema

        # JSON has no lone surrogates, and some readers cannot parse the range.
        task_id = _TASK_ID.pattern.replace(r"\ud800-\udfff", "")
        pattern = f"^{MODEL_NAME.pattern}/{task_id}$"
        return text_json_schema(cls, pattern, example="kling-2-1/task_12345678")
