"""The work on one item of a batch: one step after another, each written down."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from random import random
from typing import TYPE_CHECKING

from attrs import evolve

from kling_async.batch.decisions import Step, apply, error_of, failure_of, next_step
from kling_async.download.files import is_spoiled
from kling_async.errors import (
    ClientClosedError,
    JournalError,
    KlingError,
    TaskFailedError,
    copy_for_waiter,
)
from kling_async.journal.base import (
    GIVEN_UP,
    Claim,
    ConflictError,
    Entry,
    Failure,
    ItemState,
    Journal,
    Ownership,
    Transition,
)
from kling_async.policy.retry import backoff
from kling_async.protocol import verdicts
from kling_async.protocol.verdicts import ItemFate, Verdict
from kling_async.tasks.fan_out import Outcome

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from kling_async.batch.claims import Claims
    from kling_async.batch.options import BatchOptions
    from kling_async.batch.spend_guard import SpendGuard
    from kling_async.client import KlingClient
    from kling_async.inputs.base import Input
    from kling_async.results import Result, SavedFile, TaskRef
    from kling_async.tasks.fan_out import WorkItem
    from kling_async.tasks.task import Task

# What is told of an item that stands so is how it has ended.
_ENDED = frozenset({ItemState.FINISHED, ItemState.SAVED, ItemState.FAILED, ItemState.UNSURE})

# Seconds before the first resubmission of a failed item, doubled with each up to an hour; half of
# it is chance.
_PATIENCE, _LONGEST_PATIENCE = 30.0, 3_600.0


class Work:
    """What is done with the items of one run."""

    def __init__(  # noqa: PLR0913 - all are given by name, in one place
        self,
        client: KlingClient,
        journal: Journal,
        claims: Claims,
        *,
        options: BatchOptions,
        guard: SpendGuard,
        saving: asyncio.Semaphore,
        counts: Counter[ItemState],
    ) -> None:
        self.client = client
        self.journal = journal
        self.claims = claims
        self.options = options
        self.guard = guard
        self.folder = options.folder
        self.saving = saving
        self.counts = counts
        # The attempts of those that were sent and have no answer yet, by their keys.
        self.sending: dict[str, int] = {}

    def attach(self, entry: Entry, given: Input) -> Task:
        """Find the task of an item that is submitted, and hold its slot."""
        assert entry.ref is not None  # noqa: S101 - a journal holds none without
        return self.client.attach(entry.ref, input=given, submitted_at=entry.changed_at)

    async def do(self, work_item: WorkItem[tuple[Entry, Input]]) -> Outcome | None:
        """Bring an item as far as it gets, unless another worker does."""
        drawn, given = work_item.item
        self.counts[drawn.state] += 1
        claim = await self._claim(drawn)
        if claim.ownership is Ownership.OTHERS:
            work_item.park()
            claim = await self.claims.wait_for(drawn)
            work_item.unpark()
        entry = claim.entry
        self.counts[drawn.state] -= 1
        self.counts[entry.state] += 1
        if claim.ownership is Ownership.TOLD:
            return self.outcome(work_item.index, entry, given, error_of(entry), done_by_other=True)
        job = _Job(self, work_item, entry, fresh=claim.news)
        outcome = await job.done()
        # What is still to be saved is left to whoever comes next.
        over = next_step(job.entry, self.options, fresh=True) is Step.REPORT
        await self.claims.let_go(entry.key, ended=over and job.entry.state in _ENDED)
        return outcome

    async def give_up(self) -> None:
        """Write down, when the run has been left, which answers were lost meanwhile."""
        now, sending = datetime.now(UTC), ItemState.SUBMITTING
        lost = [
            Transition(
                key, ItemState.UNSURE, now, failure=GIVEN_UP, expected=sending, attempt=attempt
            )
            for key, attempt in self.sending.items()
        ]
        self.sending.clear()
        if lost:
            with suppress(JournalError):  # then whoever opens it next finds them so
                try:
                    await self.journal.record(*lost)
                except ConflictError:  # of one an answer was written after all
                    for move in lost:
                        with suppress(ConflictError):
                            await self.journal.record(move)

    async def _claim(self, entry: Entry) -> Claim:
        """Take an item in hand, if there is anything to be done with it."""
        if next_step(entry, self.options, fresh=False) is Step.REPORT:
            claim = await self.claims.peek(entry)
            # What another has left behind is told by one of those who find it.
            if claim.ownership is not Ownership.MINE or not claim.news:
                return claim
        (claim,) = await self.claims.take(entry)
        return claim

    def outcome(
        self,
        index: int,
        entry: Entry,
        given: Input,
        error: KlingError | None,
        *,
        done_by_other: bool = False,
    ) -> Outcome:
        """Tell what became of an item."""
        files = tuple(self.folder / file.name for file in entry.files) if self.folder else ()
        return Outcome(
            index, given, entry.ref, entry.result, error, entry.key, files, done_by_other
        )


class _Job:
    """One item on its way through the batch. It is the observer of its submits."""

    def __init__(
        self, work: Work, work_item: WorkItem[tuple[Entry, Input]], entry: Entry, *, fresh: bool
    ) -> None:
        self._work = work
        self._work_item = work_item
        self.entry = entry
        _, self._input = work_item.item
        self._error = error_of(entry)
        self._fresh = fresh
        self._task: Task | None = None  # of this run's own submit
        self.patience: float | None = work_item.patience

    async def done(self) -> Outcome | None:
        """Take step after step, until there is none or one has failed."""
        steps = {
            Step.SUBMIT: self._submit,
            Step.RESUBMIT: self._submit_anew,
            Step.WAIT: self._wait,
            Step.SAVE: self._save,
        }
        try:
            if self.entry.state is ItemState.SAVED and not await self._is_there():
                await self._save()
            while (step := next_step(self.entry, self._work.options, fresh=self._fresh)) in steps:
                if not await steps[step]():
                    return None if self.entry.state is ItemState.PLANNED else self._outcome()
        except ConflictError as error:  # another run has moved it: that one reports what follows
            self._error = error
        except (JournalError, ClientClosedError):  # nothing more can be done, or recorded
            raise
        except KlingError as error:
            if self.entry.ref is not None and self.entry.result is None:  # a task exists
                error.ref, error.may_have_charged = self.entry.ref, True
            self._error = error
        return self._outcome()

    async def _is_there(self) -> bool:
        """Whether the files that were saved are still where they are looked for.

        Those of a shared journal may be on the disk of another machine, and are not looked for.
        """
        folder = self._work.folder
        if folder is None or self._work.journal.shared:
            return True
        files = self.entry.files
        return await asyncio.to_thread(lambda: all(_is_whole(folder, file) for file in files))

    # The observer of the submit.

    async def before_send(self) -> None:
        """Write that it is being sent, before it is."""
        writing = asyncio.ensure_future(self._move(ItemState.SUBMITTING))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # it will not be sent: nobody need be unsure of it
            await writing
            await self._move(ItemState.PLANNED)
            raise

    async def on_rejected(self, error: KlingError) -> None:
        """Write that nothing was charged."""
        await self._move(ItemState.PLANNED, failure=failure_of(error))

    async def on_accepted(self, ref: TaskRef) -> None:
        """Write the reference, before the task is waited for; also of an item that is unsure."""
        self._work_item.ref = ref
        try:
            await self._move(ItemState.SUBMITTED, ref=ref)
        except ConflictError as error:
            # When a run is left, what was not answered yet is written down as unsure.
            if error.state is not ItemState.UNSURE or error.attempt != self.entry.attempt:
                raise
            self.entry = evolve(self.entry, state=ItemState.UNSURE)
            await self._move(ItemState.SUBMITTED, ref=ref)

    # The steps. Each returns whether to go on with the item in this run.

    async def _submit(self) -> bool:
        guard, model = self._work.guard, self._input.model
        if (refused := guard.refused_model(model)) is not None:
            guard.rejected(refused)
            raise copy_for_waiter(refused)  # it stays planned
        if not await guard.allows():
            return False
        try:
            if self.entry.state is not ItemState.PLANNED:
                await self._move(ItemState.PLANNED)
                self._error = None
            self._task = await self._work.client.submit(self._input, observer=self)
        except JournalError:
            raise
        except KlingError as failed:
            error = failed
        else:
            return True
        finally:
            guard.answered(started=self.entry.state is not ItemState.PLANNED)
            self._work_item.submitted()
        return await self._not_submitted(error)

    async def _not_submitted(self, error: KlingError) -> bool:
        """Conclude a submit by its verdict; see the table in protocol/verdicts.py."""
        guard = self._work.guard
        self._fresh = True
        self._error = error
        match verdicts.CONSEQUENCES[verdicts.judge_error(error)].fate:
            case ItemFate.UNSURE:
                await self._move(ItemState.UNSURE, failure=failure_of(error))
                return True
            case ItemFate.FAILED:
                guard.rejected(error)
                await self._move(ItemState.FAILED, failure=failure_of(error))
                return True
            case ItemFate.STOP:
                guard.refused(error, self._input.model)
                if guard.refused_model(self._input.model) is None:
                    return False
            case _:
                guard.rejected(error)  # it has been repeated for as long as the policy allows
        raise error  # it stays planned: the next run submits it

    async def _submit_anew(self) -> bool:
        failed = self.entry.state is ItemState.FAILED and not self.entry.was_rejected
        if failed and self._work.guard.stopped is None:
            self._work_item.submitted()  # the others need not wait behind it
            chance = 0.5 + random() / 2  # noqa: S311 - jitter
            await asyncio.sleep(backoff(self.entry.attempt, _PATIENCE, _LONGEST_PATIENCE, chance))
        return await self._submit()

    async def _wait(self) -> bool:
        # A task that has ended within its submit is not found again by its reference.
        task = self._task or self._work.attach(self.entry, self._input)
        self._work_item.ref = self.entry.ref
        self._work_item.submitted()
        try:
            result = await task.outcome(self._work.options.timeout)
        except TaskFailedError as error:
            self._fresh = True
            self._error = error
            await self._move(ItemState.FAILED, failure=failure_of(error))
        except KlingError as error:
            if verdicts.judge_error(error) is Verdict.ACCOUNT_REFUSED:
                self._work.guard.refused(error, self._input.model)
            raise
        else:
            await self._move(ItemState.FINISHED, result=result)
        return True

    async def _save(self) -> bool:
        result, folder = self.entry.result, self._work.folder
        assert result is not None and folder is not None  # noqa: S101, PT018 - for the type checker
        self._work_item.task_ended()  # beside the generation: another may be made meanwhile

        async def renewed(urls: tuple[str, ...]) -> None:
            """Write fresh URLs before they are used: those of the journal are dead."""
            await self._move(self.entry.state, result=evolve(result, result_urls=urls))

        async with self._work.saving:
            # Only what this journal has saved is replaced: other files are of other batches.
            files = await self._work.client.save(
                result,
                folder,
                name=self.entry.key,
                previous=self.entry.files,
                on_renewed=renewed,
            )
        await self._move(ItemState.SAVED, files=files)
        return True

    async def _move(
        self,
        state: ItemState,
        *,
        ref: TaskRef | None = None,
        result: Result | None = None,
        failure: Failure | None = None,
        files: tuple[SavedFile, ...] = (),
    ) -> None:
        move = Transition(
            self.entry.key,
            state,
            datetime.now(UTC),
            ref,
            result,
            failure,
            files,
            expected=self.entry.state,
            attempt=self.entry.attempt,
        )
        await self._work.journal.record(move)
        counts, sending = self._work.counts, self._work.sending
        counts[self.entry.state] -= 1
        counts[state] += 1
        self.entry = apply(self.entry, move)
        if state is ItemState.SUBMITTING:
            sending[self.entry.key] = self.entry.attempt
        else:
            sending.pop(self.entry.key, None)

    def _outcome(self) -> Outcome:
        entry = self.entry
        if entry.ref is None and self._work_item.ref is not None:  # it could not be written down
            entry = evolve(entry, ref=self._work_item.ref)
        return self._work.outcome(self._work_item.index, entry, self._input, self._error)


def _is_whole(folder: Path, file: SavedFile) -> bool:
    path = folder / file.name
    try:
        return path.stat().st_size == file.size_bytes and not is_spoiled(path)
    except OSError:
        return False
