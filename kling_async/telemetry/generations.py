"""The generations that are traced, from the submit until the end, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, define
from opentelemetry.trace import Span, SpanContext

from kling_async.inputs.base import Input

if TYPE_CHECKING:
    from kling_async.results import TaskRef

Subject: TypeAlias = "int | TaskRef"
"""The number of a submit, or the reference of its task once there is one."""

# Generations that are followed, and ended ones whose contexts are known for their downloads.
_FOLLOWED = 10_000
_REMEMBERED = 10_000


@define(eq=False)
class Generation:
    """One generation.

    Attributes:
        span: Its span.
        attributes: Those of its metrics: the model and the mode, as far as they are known.
        began: The loop's time at which it began.
        input: The input, if it is known.
        attached: Whether another process, or an earlier call, has submitted its task.
        waiting: Whether it waits for a slot.
        running: Whether its task is counted as running.
        callback: The span of a callback that was not confirmed yet.
    """

    span: Span
    attributes: dict[str, str]
    began: float
    input: Input | None = None
    attached: bool = False
    waiting: bool = False
    running: bool = False
    callback: Span | None = None


@define(eq=False)
class Generations:
    """Finds the generation of an event.

    Attributes:
        forget: Called with the oldest generation if there are too many: nothing has reported its
            end.
        limit: The maximum number.
    """

    forget: Callable[[Generation], None]
    limit: int = _FOLLOWED
    _followed: OrderedDict[Subject, Generation] = Factory(OrderedDict)
    _contexts: OrderedDict[Subject, SpanContext] = Factory(OrderedDict)

    def add(self, subject: Subject, generation: Generation) -> None:
        """Follow a generation."""
        self._followed[subject] = generation
        if len(self._followed) > self.limit:
            oldest, forgotten = next(iter(self._followed.items()))
            self.remove(oldest)
            self.forget(forgotten)

    def find(self, subject: Subject) -> Generation | None:
        """Return a generation that has not ended."""
        return self._followed.get(subject)

    def name(self, submit_id: int, ref: TaskRef) -> Generation | None:
        """Return the generation of a submit that was accepted; find it by its task from now on."""
        generation = self._followed.pop(submit_id, None)
        if generation is not None:
            self._followed[ref] = generation
        return generation

    def remove(self, subject: Subject) -> Generation | None:
        """Return a generation that has ended, and keep its context only."""
        generation = self._followed.pop(subject, None)
        if generation is not None:
            self._contexts[subject] = generation.span.get_span_context()
            if len(self._contexts) > _REMEMBERED:
                self._contexts.popitem(last=False)
        return generation

    def context(self, subject: Subject) -> SpanContext | None:
        """Return the context of the span of a generation, also of one that ended of late."""
        generation = self._followed.get(subject)
        if generation is not None:
            return generation.span.get_span_context()
        return self._contexts.get(subject)
