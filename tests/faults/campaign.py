"""Seeded campaigns: many tasks, all kinds of faults, impatient callers; then books are compared.

A campaign runs fan-outs, single submits and batches against an emulator, on virtual time, with two
clients that share a limiter and are replaced now and then. Everything that is random follows from
the seed. At the end, what was reported to the callers is compared with the emulator's ledger.

    python -m tests.faults.campaign --seeds 200 --tasks 400
    python -m tests.faults.campaign --seed 17 --tasks 400
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
from attrs import define, field, frozen

from kling_async import (
    Batch,
    KlingClient,
    KlingError,
    Limits,
    LocalLimiter,
    MasterTextToVideo,
    Outcome,
    TaskRef,
    parse_input,
)
from kling_async.events import Event, SubmitFailed, Submitted, TaskEnded, TasksAbandoned
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.limits.local import _RequestQueue
from kling_async.testing import Emulator, Scenario, VirtualLoop
from kling_async.testing.scenario import OUTCOMES, Occurrences, ScenarioRule
from tests.faults.observe import MEMORY

__all__ = ["Plan", "Report", "main", "run"]

# What happens to requests, each as likely as the others; of submits, lost answers twice as likely.
# gateways give once they have forwarded a request: any other proves that they have not.
_REFUSED: Final = ("403", "404", "413", "422", "429", "429:7", "503", "503:5", "page:403")
_UNCLEAR: Final = ("408", "409", "425", "499", "500", "502", "504", "page:200", "page:503")
_LOST: Final = ("lost-answer", "garbage", "truncated", "cut", "late-page:503", "late-page:408")
_SLOW: Final = ("late", "late:20", "slow", "slow:40", "hang")
_OTHER: Final = ("reset", "redirect", "code:503", "code:500", "page:429")
_ACCOUNT: Final = ("401", "402")  # rare: a batch stops at the first of them
_FILE: Final = ("403", "404", "408", "429", "500", "503", "page:200", "cut", "truncated", "reset")
_TASK: Final = tuple(
    {"fail": "fail:NSFW_DETECTED"}.get(name, name) for name in OUTCOMES if name != "stuck"
)
_FAULTS: Final[Mapping[str, Sequence[str]]] = {
    "submit": (*_REFUSED, *_UNCLEAR, *_LOST, *_LOST, *_SLOW, *_OTHER),
    "status": (*_REFUSED, *_UNCLEAR, *_LOST, *_SLOW, *_OTHER),
    "balance": (*_REFUSED, *_UNCLEAR),
    "file": (*_FILE, "changed", "no-range", "weak-etag"),
    "task": (*_TASK, "fail:PROCESSING_TIMEOUT"),
}
_TIMEOUT: Final = 400.0  # that callers wait for a task
_FORGOTTEN: Final = 8000.0  # by then every slot has expired, of whatever is not known
_MINUTE: Final = 60.0


@frozen
class Plan:
    """What a seed decides."""

    seed: int
    tasks: int
    rate: float  # the share of requests that meet a fault
    requests_per_minute: int
    concurrent_tasks: int
    latency: tuple[float, float]
    duration: tuple[float, float]
    download: bool

    @classmethod
    def of(cls, seed: int, tasks: int) -> Plan:
        """Draw a plan."""
        dice = random.Random(seed)  # noqa: S311 - repeatable, and no secret
        slots = dice.choice((3, 10, 50, 400))
        slow = dice.choice((0.0, 0.2, 2.0))
        return cls(
            seed,
            tasks,
            rate=dice.choice((0.01, 0.05, 0.1, 0.2)),
            requests_per_minute=dice.choice((60, 300, 1000, 10_000)),
            concurrent_tasks=slots,
            latency=(slow / 4, slow),
            duration=(1.0, dice.choice((3.0, 30.0))),
            download=dice.random() < 0.5,
        )


@frozen
class Chance(Scenario):
    """A scenario in which each request, and each task, meets a fault by chance."""

    seed: int = 0
    rate: float = 0.0

    def find(self, numbers: Mapping[str, int]) -> ScenarioRule | None:
        """Draw the fault of what comes next."""
        kind, number = next(iter(numbers.items()))
        if kind not in _FAULTS:
            return None
        dice = random.Random(f"{self.seed} {kind} {number}")  # noqa: S311 - as above
        if dice.random() >= self.rate:
            return None
        faults = _ACCOUNT if kind != "task" and dice.random() < 0.02 else _FAULTS[kind]
        return _rule(kind, dice.choice(faults))


@cache
def _rule(kind: str, what: str) -> ScenarioRule:
    name, _, detail = what.partition(":")
    Scenario().on("file" if kind == "file" else kind, 1, what)  # it must be one that there is
    return ScenarioRule(kind, Occurrences(1, None), name, detail)


@define
class Books:
    """What callers know."""

    refs: set[TaskRef] = field(factory=set)  # by outcomes, errors, journals and reports
    accepted: dict[TaskRef, str] = field(factory=dict)  # by the event: the prompt
    ended: set[TaskRef] = field(factory=set)
    unsure: set[str] = field(factory=set)  # prompts that may have been charged
    free: set[str] = field(factory=set)  # prompts of which it was said that nothing was charged
    outcomes: Counter[str] = field(factory=Counter)
    drawn: Counter[str] = field(factory=Counter)
    abandoned: int = 0
    problems: list[str] = field(factory=list)

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Submitted(ref=ref, input=MasterTextToVideo(prompt=prompt)):
                self.accepted[ref] = prompt
            case TaskEnded(snapshot=snapshot):
                self.ended.add(snapshot.ref)
            case TasksAbandoned(refs=refs):
                self.abandoned += len(refs)
                self.refs.update(refs)
            case SubmitFailed(input=MasterTextToVideo(prompt=prompt), error=error):
                self.fail(prompt, error)

    def fail(self, prompt: str, error: KlingError) -> None:
        """Take note of an error."""
        if error.ref is not None:
            self.refs.add(error.ref)
        elif error.may_have_charged:
            self.unsure.add(prompt)
        else:
            self.free.add(prompt)

    def outcome(self, prompt: str, ref: TaskRef | None, error: KlingError | None) -> None:
        """Take note of an outcome."""
        self.outcomes[prompt] += 1
        if ref is not None:
            self.refs.add(ref)
        elif error is None:
            self.problems.append(f"{prompt}: neither a task nor an error")
        else:
            self.fail(prompt, error)


@frozen
class Report:
    """What came of a campaign.

    Attributes:
        plan: What was tried.
        paid: The tasks that were started.
        unsure: The prompts that were reported as perhaps charged.
        abandoned: The tasks that were reported as abandoned.
        requests: How many arrived.
        problems: What is wrong, if anything is.
    """

    plan: Plan
    paid: int
    unsure: int
    abandoned: int
    requests: int
    problems: tuple[str, ...]

    @property
    def command(self) -> str:
        """What repeats it."""
        plan = self.plan
        return f"python -m tests.faults.campaign --seed {plan.seed} --tasks {plan.tasks}"


class Inputs(Iterator[MasterTextToVideo]):
    """Inputs with prompts of their own; what is left serves the next fan-out."""

    def __init__(self, name: str, number: int, books: Books) -> None:
        self._prompts = iter([f"{name} {index}" for index in range(number)])
        self._books = books
        self.exhausted = False

    def __next__(self) -> MasterTextToVideo:
        try:
            prompt = next(self._prompts)
        except StopIteration:
            self.exhausted = True
            raise
        self._books.drawn[prompt] += 1
        return MasterTextToVideo(prompt)


class Campaign:
    """One run of a plan."""

    def __init__(self, plan: Plan, emulator: Emulator, folder: Path) -> None:
        self.plan = plan
        self.emulator = emulator
        self.books = Books()
        self.dice = random.Random(plan.seed)  # noqa: S311 - as above
        self.limiter = LocalLimiter(
            Limits(
                requests_per_minute=plan.requests_per_minute,
                concurrent_tasks=plan.concurrent_tasks,
            )
        )
        self.clients = [self._client(), self._client()]
        self.folder = folder

    def _client(self) -> KlingClient:
        emulator = self.emulator
        return KlingClient(
            emulator.key,
            base_url=emulator.base_url,
            limiter=self.limiter,
            hooks=[self.books.hear],
        )

    async def run(self) -> None:
        """Let all callers come to their ends, while clients are replaced."""
        share = self.plan.tasks // 4
        replacing = asyncio.create_task(self._replace_clients())
        try:
            await asyncio.gather(
                self._fan_out("fan-out", share, 0),
                self._fan_out("other fan-out", share, 1),
                self._singles("single", share),
                self._batches("batch", share),
            )
        finally:
            replacing.cancel()
            await asyncio.wait((replacing,))
            for client in self.clients:
                await client.close()

    async def _replace_clients(self) -> None:
        """Close a client now and then, in the middle of things, and take another."""
        while True:
            await asyncio.sleep(self.dice.uniform(20, 400))
            number = self.dice.randrange(2)
            old, self.clients[number] = self.clients[number], self._client()
            await old.close()

    async def _fan_out(self, name: str, number: int, client: int) -> None:
        inputs = Inputs(name, number, self.books)
        while not inputs.exhausted:
            await self._impatiently(lambda: self._some(inputs, client))

    async def _some(self, inputs: Inputs, client: int) -> None:
        """Take outcomes until there are no more, or until the caller has enough of them."""
        enough = self.dice.choice((10**9, 10**9, 30))
        ordered = self.dice.random() < 0.3
        kling = self.clients[client]
        async with aclosing(
            kling.generate_many(inputs, ordered=ordered, timeout=_TIMEOUT)
        ) as outcomes:
            async for outcome in outcomes:
                self._note(outcome)
                enough -= 1
                if enough <= 0:
                    break

    def _note(self, outcome: Outcome) -> None:
        assert isinstance(outcome.input, MasterTextToVideo)
        self.books.outcome(outcome.input.prompt, outcome.task_ref, outcome.error)

    async def _singles(self, name: str, number: int) -> None:
        inputs = Inputs(name, number, self.books)
        async with asyncio.TaskGroup() as group:
            for one in inputs:
                group.create_task(self._impatiently(partial(self._single, one)))
                await asyncio.sleep(self.dice.expovariate(2.0))

    async def _single(self, one: MasterTextToVideo) -> None:
        try:
            result = await self.dice.choice(self.clients).generate(one, timeout=_TIMEOUT)
        except KlingError as error:
            self.books.outcome(one.prompt, error.ref, error)
        else:
            self.books.outcome(one.prompt, result.ref, None)

    async def _batches(self, name: str, number: int) -> None:
        """Run a batch, leave it, run it again, until a run comes to its end."""
        items = [MasterTextToVideo(f"{name} {index}") for index in range(number)]
        path = self.folder / "journal.sqlite"
        for _ in range(500):
            if await self._impatiently(lambda: self._batch(path, items)):
                break
            # Who is cancelled by a scope leaves before the journal is closed, in the background.
            await asyncio.sleep(1)
        else:
            self.books.problems.append("the batch does not come to its end")
        async with SqliteJournal(path, read_only=True) as journal:
            async for entry in journal.entries():
                prompt = str(getattr(parse_input(entry.input), "prompt", ""))
                if entry.ref is not None:
                    self.books.refs.add(entry.ref)
                elif entry.state.value == "unsure":
                    self.books.unsure.add(prompt)
                elif entry.state.value in {"planned", "failed"}:
                    self.books.free.add(prompt)
                else:
                    self.books.problems.append(f"{prompt} is {entry.state} after the end")

    async def _batch(self, path: Path, items: list[MasterTextToVideo]) -> None:
        enough = self.dice.choice((10**9, 10**9, len(items) // 2))
        async with Batch(
            self.clients[1],
            journal=path,
            download_to=self.folder / "videos" if self.plan.download else None,
            timeout=_TIMEOUT,
        ) as batch:
            async for outcome in batch.run(items):
                if outcome.task_ref is not None:
                    self.books.refs.add(outcome.task_ref)
                enough -= 1
                if enough <= 0:
                    raise TimeoutError  # the caller's own trouble

    async def _impatiently(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something that may be cancelled: not, once, twice or by a scope of anyio.

        Returns:
            Whether it came to its end.
        """
        how = self.dice.choice(("never", "never", "never", "once", "twice", "scope"))
        after = self.dice.choice((0.0, 1.0, 20.0, 60.0)) * self.dice.random()
        ended = False

        async def do() -> None:
            nonlocal ended
            with suppress(KlingError, TimeoutError):
                await work()
                ended = True

        if how == "scope":
            with anyio.move_on_after(after):
                await do()
            return ended
        task = asyncio.ensure_future(do())
        if how != "never":
            await asyncio.wait((task,), timeout=after)
            task.cancel()
        if how == "twice":
            await asyncio.sleep(self.dice.choice((0.0, 0.0, 0.01, 1.0)))
            task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()
        return ended

    async def check(self) -> None:
        """Compare the books."""
        self._check_money()
        self._check_outcomes()
        self._check_window()
        await self._check_remains()

    def _check_money(self) -> None:
        books = self.books
        paid = Counter(str(entry.input["prompt"]) for entry in self.emulator.ledger)
        known = books.refs | books.ended
        for entry in self.emulator.ledger:
            prompt, ref = str(entry.input["prompt"]), TaskRef(entry.model, entry.task_id)
            if paid[prompt] > 1:
                books.problems.append(f"{prompt} is paid {paid[prompt]} times")
            if ref not in known and prompt not in books.unsure:
                path = "only by an event" if ref in books.accepted else "by nothing"
                books.problems.append(f"{prompt}: {ref} is paid, and reported {path}")
        started = {TaskRef(entry.model, entry.task_id) for entry in self.emulator.ledger}
        for ref in known - started:
            books.problems.append(f"{ref} was reported, and never started")
        for prompt in books.free & paid.keys():
            if books.accepted and prompt not in books.accepted.values():
                books.problems.append(f"{prompt} was said to be free, and is paid")

    def _check_outcomes(self) -> None:
        books = self.books
        for prompt, number in books.outcomes.items():
            if number > 1:
                books.problems.append(f"{prompt} has {number} outcomes")
            if books.drawn[prompt] != 1:
                books.problems.append(f"{prompt} was drawn {books.drawn[prompt]} times")

    def _check_window(self) -> None:
        moments = sorted(
            arrival.counted_at
            for arrival in self.emulator.requests
            if arrival.counted_at is not None
        )
        limit = self.plan.requests_per_minute
        shortest = min(
            (late - early for early, late in zip(moments, moments[limit:], strict=False)),
            default=_MINUTE,
        )
        if shortest < _MINUTE:
            self.books.problems.append(f"{limit + 1} requests within {shortest:.3f} s")

    async def _check_remains(self) -> None:
        """Nothing is left: at once no asyncio task, and in time no permit and no slot."""
        problems = self.books.problems
        mine = {asyncio.current_task()}
        left = [
            task.get_coro().__qualname__  # type: ignore[union-attr]
            for task in asyncio.all_tasks() - mine
            if "kling_async/testing" not in _file_of(task) and "/kling_async/" in _file_of(task)
        ]
        if left:
            problems.append(f"asyncio tasks are left: {left}")
        running = len(self.emulator.ledger) - len(self.books.ended)
        if self.limiter.slots_in_use > running + len(self.books.unsure):
            problems.append(f"{self.limiter.slots_in_use} slots are held for {running} tasks")
        await asyncio.sleep(_FORGOTTEN)
        state = self.limiter._state  # noqa: SLF001 - nothing public says what is under way
        queue = None if state is None else state.requests
        if isinstance(queue, _RequestQueue) and queue.window._in_flight:  # noqa: SLF001
            problems.append(f"{queue.window._in_flight} permits are left")  # noqa: SLF001
        if self.limiter.slots_in_use:
            problems.append(f"{self.limiter.slots_in_use} slots are left")


def _file_of(task: asyncio.Task[object]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code is not None else ""


async def _main(plan: Plan) -> Report:
    unhandled: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(repr(context)))
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(dir=MEMORY))
        emulator = await stack.enter_async_context(
            Emulator(
                # The window is the client's to keep: what arrives beyond it is counted here.
                requests_per_minute=10**9,
                concurrent_tasks=plan.concurrent_tasks,
                duration=plan.duration,
                balance=1e9,
                latency=plan.latency,
                scenario=Chance(seed=plan.seed, rate=plan.rate),
                video="small",
                seed=plan.seed,
            )
        )
        campaign = Campaign(plan, emulator, Path(folder))
        await campaign.run()
        await campaign.check()
        books = campaign.books
        requests = len(emulator.requests)
        paid = len(emulator.ledger)
    gc.collect()  # what was never retrieved is reported now
    await asyncio.sleep(1)
    problems = (*books.problems, *unhandled)
    return Report(plan, paid, len(books.unsure), books.abandoned, requests, problems)


def run(seed: int, tasks: int) -> Report:
    """Run one campaign on an event loop of its own."""
    random.seed(seed)  # the client's jitter
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_main(Plan.of(seed, tasks)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run campaigns, and say which ones fail and how to repeat them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--tasks", type=int, default=400, help="inputs of each campaign")
    given = parser.parse_args(arguments)
    seeds = range(given.first, given.first + given.seeds) if given.seed is None else [given.seed]
    failed = 0
    for seed in seeds:
        report = run(seed, given.tasks)
        failed += bool(report.problems)
        print(  # noqa: T201 - a program's output
            f"seed {seed}: {report.paid} paid, {report.unsure} unsure, {report.abandoned}"
            f" abandoned, {report.requests} requests:",
            "FAILED" if report.problems else "ok",
            flush=True,
        )
        if report.problems:
            print(report.plan, *report.problems, f"repeat: {report.command}", sep="\n  ")  # noqa: T201
    return bool(failed)


if __name__ == "__main__":
    # Thousands of warnings, each of which is about a reference that a campaign checks.
    logging.getLogger("kling_async").setLevel(logging.CRITICAL)
    sys.exit(main())
