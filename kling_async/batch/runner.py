"""One run of a batch, and the steps of each of its items: each is written in the journal first."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from random import random
from typing import TYPE_CHECKING

from attrs import evolve

from kling_async.batch.claims import Claims
from kling_async.batch.decisions import (
    Step,
    UnreadableItem,
    apply,
    next_step,
    to_error,
    to_failure,
)
from kling_async.batch.destination import open_destination
from kling_async.batch.spend_guard import SpendGuard
from kling_async.errors import ClientClosedError, JournalError, KlingError, TaskFailedError
from kling_async.journal.base import (
    INTERRUPTED,
    Claim,
    ConflictError,
    Entry,
    Failure,
    ItemState,
    Journal,
    Ownership,
    Transition,
)
from kling_async.media.inspection import inspected_files
from kling_async.policy.retry import backoff
from kling_async.protocol import verdicts
from kling_async.protocol.verdicts import ItemFate, Verdict
from kling_async.tasks.abandoned import log_journaled, log_warning
from kling_async.tasks.fan_out import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable
    from pathlib import Path

    from kling_async.batch.destination import Destination
    from kling_async.batch.options import BatchOptions
    from kling_async.client import KlingClient
    from kling_async.inputs.base import Input
    from kling_async.results import Result, SavedFile, TaskRef
    from kling_async.tasks.fan_out import WorkItem
    from kling_async.tasks.task import Task

    BatchItem = tuple[Entry | UnreadableItem, Input]
    """An item of a batch: its entry in the journal, and its input."""

# An item in one of these states has ended when it is reported.
_ENDED = frozenset({ItemState.FINISHED, ItemState.SAVED, ItemState.FAILED, ItemState.UNSURE})

# Seconds before the first resubmission of a failed item, doubled with each up to the longest; half
# of the wait is random.
_FIRST_WAIT, _LONGEST_WAIT = 30.0, 3_600.0


class BatchRun:
    """One run over the items of a batch: what they share.

    Its items are what ``entries`` returns, which is called with the run.

    Attributes:
        outcomes: Yields what became of each item.
        counts: The number of items in each state, of those that were begun with.
        submitting: The items whose submits have not been answered yet, or whose answers the journal
            does not have.
    """

    def __init__(
        self,
        client: KlingClient,
        journal: Journal,
        options: BatchOptions,
        entries: Callable[[BatchRun], AsyncIterable[BatchItem]],
        *,
        ordered: bool = False,
    ) -> None:
        self.client = client
        self.journal = journal
        self.options = options
        self.destination: Destination | None = (
            None if options.download_to is None else open_destination(options.download_to)
        )
        self.guard: SpendGuard = SpendGuard(client, options)
        self.claims: Claims | None = Claims(journal) if journal.shared else None
        self.counts: Counter[ItemState] = Counter()
        self.submitting: set[ItemRun] = set()
        self.downloads: asyncio.Semaphore = asyncio.Semaphore(options.downloads)
        self._fan_out = client.fan_out(
            self.run_item,
            in_flight=options.in_flight,
            ordered=ordered,
            on_abandoned=self._log_abandoned,
        )
        self.outcomes: AsyncGenerator[Outcome] = self._fan_out.outcomes(entries(self))
        self._ending = asyncio.Lock()

    async def run_item(self, work: WorkItem[BatchItem]) -> Outcome | None:
        """Take the steps of an item, unless another worker does."""
        entry, sent = work.item
        if isinstance(entry, UnreadableItem):
            return Outcome(work.index, sent, error=entry.error, key=entry.key)
        self.counts[entry.state] += 1
        if self.claims is None:
            return await ItemRun(self, work, entry, fresh=False).run()
        claim = await self._claim(self.claims, entry)
        if claim.ownership is Ownership.OTHERS:
            work.park()
            claim = await self.claims.wait_for(entry)
            work.unpark()
        self.counts[entry.state] -= 1
        self.counts[claim.entry.state] += 1
        item = ItemRun(self, work, claim.entry, fresh=claim.changed)
        if claim.ownership is Ownership.DONE:
            return item.outcome(done_by_other=True)
        outcome = await item.run()
        # A file that was not saved is left to other workers.
        reported = next_step(item.entry, self.options, fresh=True) is Step.REPORT
        ended = reported and item.entry.state in _ENDED
        await self.claims.release(item.entry.key, ended=ended)
        return outcome

    def attach(self, entry: Entry, sent: Input) -> Task:
        """Return the task of a submitted item."""
        assert entry.ref is not None  # noqa: S101 - a submitted item has one
        return self.client.attach(
            entry.ref, input=sent, submitted_at=entry.changed_at, traceparent=entry.traceparent
        )

    async def has_files(self, saved: Entry) -> bool:
        """Return whether the files of a saved item are where this run saves them."""
        if self.destination is None:
            return True
        return await self.destination.has_files(saved.files, shared=self.journal.shared)

    async def close(self) -> None:
        """End the run. The loop over the outcomes and the end of the batch may both call this.

        Raises:
            RuntimeError: Another asyncio.Task is in the loop over the outcomes.
        """
        async with self._ending:
            await self.outcomes.aclose()
            await self._fan_out.finished()  # a loop that was cancelled has not waited for this
            lost, self.submitting = self.submitting, set()
            await asyncio.gather(*map(ItemRun.end_submit, lost))
            if self.claims is not None:
                await self.claims.close()

    def _log_abandoned(self, refs: tuple[TaskRef, ...]) -> None:
        """Log how many tasks the journal has, and the references of the others."""
        failed = {item.unrecorded.ref for item in self.submitting if item.unrecorded}
        if unrecorded := tuple(ref for ref in refs if ref in failed):
            log_warning(unrecorded)
        if recorded := tuple(ref for ref in refs if ref not in failed):
            log_journaled(recorded)

    async def _claim(self, claims: Claims, entry: Entry) -> Claim:
        """Claim an item if there is anything left to do for it."""
        elsewhere = entry.state is ItemState.SAVED and not await self.has_files(entry)
        if next_step(entry, self.options, fresh=False) is Step.REPORT and not elsewhere:
            (claim,) = await self.journal.peek(entry)
            # What a dead worker has left behind is reported by one of those who find it.
            if claim.ownership is not Ownership.MINE or not claim.changed:
                return claim
        (claim,) = await claims.claim(entry)
        return claim


class ItemRun:
    """The steps of one item in one run. It is the observer of its own submits.

    Attributes:
        unrecorded: The latest transition, if it could not be written in the journal.
    """

    def __init__(
        self, run: BatchRun, work: WorkItem[BatchItem], entry: Entry, *, fresh: bool
    ) -> None:
        self.entry: Entry = entry
        self.patience: float | None = work.patience
        self.traceparent: str = ""
        self.unrecorded: Transition | None = None
        self._run = run
        self._work = work
        self._input = work.item[1]
        self._error = None if entry.failure is None else to_error(entry)
        self._fresh = fresh
        self._task: Task | None = None  # of a submit of this run

    async def run(self) -> Outcome | None:
        """Take step after step until nothing is left to do, or a step fails."""
        steps = {
            Step.SUBMIT: self._submit,
            Step.RESUBMIT: self._resubmit,
            Step.WAIT: self._wait_for_task,
            Step.SAVE: self._save_files,
        }
        options = self._run.options
        try:
            if self.entry.state is ItemState.SAVED and not await self._run.has_files(self.entry):
                await self._save_files()
            while (step := next_step(self.entry, options, fresh=self._fresh)) in steps:
                if not await steps[step]():
                    return None if self.entry.state is ItemState.PLANNED else self.outcome()
        except ConflictError as error:  # another run has moved the item and reports it
            self._error = error
        except (JournalError, ClientClosedError):  # no step can be taken, or recorded, any more
            raise
        except KlingError as error:
            self._error = error
        return self.outcome()

    def outcome(self, *, done_by_other: bool = False) -> Outcome:
        """Return what became of the item."""
        entry, destination = self.entry, self._run.destination
        outcome = Outcome(
            self._work.index,
            self._input,
            entry.ref or self._work.ref,  # a reference that could not be recorded
            entry.result,
            self._error,
            entry.key,
            done_by_other=done_by_other,
            media=tuple(file.media for file in entry.files if file.media) if destination else (),
        )
        return outcome if destination is None else destination.add_files(outcome, entry.files)

    # The observer of the submit.

    async def before_send(self) -> None:
        """Record that the submit is being sent, before it is."""
        recording = asyncio.ensure_future(self._record_state(ItemState.SUBMITTING))
        try:
            await asyncio.shield(recording)
        except asyncio.CancelledError:  # it will not be sent, so it must not stay SUBMITTING
            await recording
            await self._record_state(ItemState.PLANNED)
            raise

    async def on_rejected(self, error: KlingError) -> None:
        """Record that nothing was charged."""
        await self._record_state(ItemState.PLANNED, failure=to_failure(error))

    async def on_accepted(self, ref: TaskRef) -> None:
        """Record the reference before the task is waited for, also of an unsure item."""
        self._work.ref, trace = ref, self.traceparent
        try:
            await self._record_state(ItemState.SUBMITTED, ref=ref, traceparent=trace)
        except ConflictError as error:
            # When a run is left, items whose submits were not answered are recorded as unsure.
            if error.state is not ItemState.UNSURE or error.attempt != self.entry.attempt:
                raise
            self.entry = evolve(self.entry, state=ItemState.UNSURE)
            await self._record_state(ItemState.SUBMITTED, ref=ref, traceparent=trace)

    async def end_submit(self) -> None:
        """Record the answer to a submit that the journal does not have, when the run ends.

        It could not be written when it came. Without an answer, the item is unsure.
        """
        answer = self.unrecorded
        with suppress(JournalError):  # the next process that opens the journal finds it unsure
            if answer is None:
                await self._record_state(ItemState.UNSURE, failure=INTERRUPTED)
            elif answer.ref is None:
                await self._record_state(answer.state, failure=answer.failure)
            else:
                await self.on_accepted(answer.ref)

    # The steps. Each returns whether the item may take another step in this run.

    async def _submit(self) -> bool:
        guard = self._run.guard
        if not await guard.admit_submit(self._input.model):
            return False
        try:
            if self.entry.state is not ItemState.PLANNED:
                await self._record_state(ItemState.PLANNED)
                self._error = None
            self._task = await self._run.client.submit(self._input, observer=self)
        except JournalError:
            raise
        except KlingError as failed:
            error = failed
        else:
            return True
        finally:
            guard.submit_ended(started=self.entry.state is not ItemState.PLANNED)
            self._work.submitted()
        return await self._conclude_failed_submit(error)

    async def _conclude_failed_submit(self, error: KlingError) -> bool:
        """Act on the verdict of a submit; see the table in ``protocol/verdicts.py``."""
        guard = self._run.guard
        self._fresh = True
        self._error = error
        match verdicts.CONSEQUENCES[verdicts.judge_error(error)].fate:
            case ItemFate.UNSURE:
                await self._record_state(ItemState.UNSURE, failure=to_failure(error))
                return True
            case ItemFate.FAILED:
                guard.count_rejection(error)
                await self._record_state(ItemState.FAILED, failure=to_failure(error))
                return True
            case ItemFate.STOP:
                if not guard.refuse(error, self._input.model):
                    return False
            case _:
                guard.count_rejection(error)  # repeated for as long as the policy allows
        raise error  # the item stays planned: the next run submits it

    async def _resubmit(self) -> bool:
        failed = self.entry.state is ItemState.FAILED and not self.entry.was_rejected
        if failed and self._run.guard.stopped is None:
            self._work.submitted()  # the next items need not wait behind this one
            chance = 0.5 + random() / 2  # noqa: S311 - jitter
            await asyncio.sleep(backoff(self.entry.attempt, _FIRST_WAIT, _LONGEST_WAIT, chance))
        return await self._submit()

    async def _wait_for_task(self) -> bool:
        entry = self.entry
        # attach() does not find a task that has ended within its submit.
        task = self._task or self._run.attach(entry, self._input)
        self._work.ref = entry.ref
        self._work.submitted()
        try:
            result = await task.wait(self._run.options.timeout, report=False)
        except TaskFailedError as error:
            self._fresh = True
            self._error = error
            await self._record_state(ItemState.FAILED, failure=to_failure(error))
        except KlingError as error:
            if verdicts.judge_error(error) is Verdict.ACCOUNT_REFUSED:
                self._run.guard.refuse(error, self._input.model)
            error.ref, error.may_have_charged = entry.ref, True  # whatever the error is of
            raise
        else:
            await self._record_state(ItemState.FINISHED, result=result)
        return True

    async def _save_files(self) -> bool:
        entry, run = self.entry, self._run
        result, destination, kind = entry.result, run.destination, run.options.manifest
        assert result is not None and destination is not None  # noqa: S101, PT018 - for the type checker
        self._work.task_ended()  # another task may run during the download

        async def on_renewed(urls: tuple[str, ...]) -> None:
            """Record fresh URLs before they are used: those of the journal have expired."""
            await self._record_state(self.entry.state, result=evolve(result, result_urls=urls))

        async def fetch(folder: Path, previous: tuple[SavedFile, ...]) -> tuple[SavedFile, ...]:
            files = await run.client.save(
                result,
                folder,
                name=entry.key,
                previous=previous,
                on_renewed=on_renewed,
                traceparent=entry.traceparent,
            )
            return await inspected_files(folder, files, self._input) if kind == "media" else files

        async with run.downloads:
            files = await destination.save(entry, fetch, manifest=kind != "none")
        await self._record_state(ItemState.SAVED, files=files)
        return True

    async def _record_state(  # noqa: PLR0913 - the details are given by name
        self,
        state: ItemState,
        *,
        ref: TaskRef | None = None,
        result: Result | None = None,
        failure: Failure | None = None,
        files: tuple[SavedFile, ...] = (),
        traceparent: str = "",
    ) -> None:
        """Record a transition of the item."""
        transition = Transition(
            self.entry.key,
            state,
            datetime.now(UTC),
            ref,
            result,
            failure,
            files,
            expected=self.entry.state,
            attempt=self.entry.attempt,
            traceparent=traceparent,
        )
        run = self._run
        try:
            await run.journal.record(transition)
        except JournalError:
            self.unrecorded = transition
            raise
        self.unrecorded = None
        run.counts[self.entry.state] -= 1
        run.counts[state] += 1
        self.entry = apply(self.entry, transition)
        if state is ItemState.SUBMITTING:
            run.submitting.add(self)
        else:
            run.submitting.discard(self)
