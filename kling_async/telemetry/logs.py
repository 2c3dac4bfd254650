"""The log: what the logger ``kling_async`` has of each event, and how ``KLING_LOG`` shows it.

The events are logged if the logger is enabled for INFO when a request begins. A program that
configures logging needs nothing else. ``KLING_LOG=info`` or ``debug`` writes the log to stderr
without a line of code.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, TypeVar

from attrs import define, field

from kling_async._utils.clock import find_clock
from kling_async._utils.text import printable
from kling_async.errors import ConfigurationError
from kling_async.events import (
    CallbackReceived,
    CalledBack,
    Polled,
    RequestAnswered,
    SlotAcquired,
    SubmitFailed,
    SubmitStarted,
    Submitted,
    SubmitWithdrawn,
    TaskAttached,
    TaskDropped,
    TaskEnded,
)
from kling_async.inputs.base import Input
from kling_async.results import Snapshot
from kling_async.telemetry.log_lines import describe_error, describe_event, prompts_of

if TYPE_CHECKING:
    from kling_async.events import DetailedEvent

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

# The events that are logged at DEBUG only.
_DETAILS = (SubmitStarted, SlotAcquired, RequestAnswered, Polled, CalledBack, CallbackReceived)

# Submits and tasks whose beginnings are remembered; the oldest are forgotten first.
_REMEMBERED = 10_000


def parse_level(text: str) -> int:
    """Return the level that a text names, as ``KLING_LOG`` has it.

    Raises:
        ConfigurationError: It names no level.
    """
    level = _LEVELS.get(text.strip().lower())
    if level is None:
        raise ConfigurationError(f"KLING_LOG must be {', '.join(_LEVELS)}, not {text!r:.80}")
    return level


def write_to_stderr(level: int) -> None:
    """Set the level of the logger, and write its records to stderr.

    A program that has configured logging gets the records through its own handlers instead. A
    further call only sets the level.
    """
    _log.setLevel(level)
    if not any(isinstance(handler, _StandardError) for handler in _log.handlers):
        handler = _StandardError()
        handler.setFormatter(logging.Formatter(_FORMAT))
        _log.addHandler(handler)


class _StandardError(logging.Handler):
    """Writes records to what ``sys.stderr`` is at that time, unless other handlers show them."""

    def emit(self, record: logging.LogRecord) -> None:
        has_others = logging.getLogger().handlers or len(_log.handlers) > 1
        if has_others or sys.stderr is None:
            return
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as in logging.StreamHandler
            self.handleError(record)


@define
class EventLog:
    """A hook that logs every event.

    Operators read INFO: what was submitted, finished, failed, retried, paused and downloaded.
    DEBUG has every request. Tasks that are abandoned are logged without this hook.

    Attributes:
        prompts: Whether prompts are logged. Default: ``KLING_LOG_PROMPTS=1``.
    """

    prompts: bool = field(factory=lambda: os.environ.get("KLING_LOG_PROMPTS") == "1")
    _slot_waits: OrderedDict[Hashable, float] = field(factory=OrderedDict, init=False)
    _began: OrderedDict[Hashable, float] = field(factory=OrderedDict, init=False)
    _inputs: OrderedDict[Hashable, Input] = field(factory=OrderedDict, init=False)

    detailed: ClassVar[bool] = True

    def __call__(self, event: DetailedEvent) -> None:
        """Log an event."""
        if isinstance(event, SubmitStarted):
            _remember(self._inputs, event.submit_id, event.input)
        if isinstance(event, _DETAILS) and not _log.isEnabledFor(logging.DEBUG):
            return
        more = self._update(event)
        line = describe_event(event)
        if line is None or not _log.isEnabledFor(line.level):
            return
        fields, text = {**line.fields, **more, "event": type(event).__name__}, line.text
        error = getattr(event, "error", None)
        sent = line.input or self._inputs.get(getattr(event, "submit_id", 0))
        if error is not None and not self.prompts:
            text = text.replace(describe_error(error), describe_error(error, sent))
        if "seconds" in more:
            text += f" after {more['seconds']:.1f} s"
        if "slot_wait" in more:
            text += f", {more['slot_wait']:.3f} s for a slot"
        if self.prompts and line.input is not None:
            prompt = fields["prompt"] = next(iter(prompts_of(line.input)), "")
            text += f": {printable(prompt)!r}"
        extra = {f"kling_{name}": value for name, value in fields.items() if value is not None}
        _log.log(line.level, "%s", text, extra=extra)

    def _update(self, event: DetailedEvent) -> dict[str, float]:
        """Remember an event, and return the fields that earlier events of it add."""
        match event:
            case SlotAcquired(waited=waited, submit_id=submit):
                _remember(self._slot_waits, submit, waited)
            case RequestAnswered(kind="submit", submit_id=submit):
                return {"slot_wait": self._slot_waits.get(submit, 0.0)}
            case Submitted(ref=ref):
                _remember(self._began, ref, find_clock()())
            case TaskAttached(ref=ref, submitted_at=datetime() as moment):
                age = (datetime.now(UTC) - moment).total_seconds()
                _remember(self._began, ref, find_clock()() - max(0.0, age))
            case TaskEnded(snapshot=Snapshot(ref=ref)) if ref in self._began:
                return {"seconds": find_clock()() - self._began.pop(ref)}
            case TaskDropped(ref=ref):
                self._began.pop(ref, None)
        if isinstance(event, Submitted | SubmitFailed | SubmitWithdrawn):
            self._slot_waits.pop(event.submit_id, None)
            self._inputs.pop(event.submit_id, None)
        return {}


def _remember(values: OrderedDict[Hashable, _T], key: Hashable, value: _T) -> None:
    values[key] = value
    if len(values) > _REMEMBERED:
        values.popitem(last=False)
