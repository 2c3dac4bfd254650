"""``kling-async limits``: how much of shared limits is in use, and by whom."""

from __future__ import annotations

import os
from itertools import groupby
from typing import TYPE_CHECKING

from kling_async._utils.text import format_duration
from kling_async.cli import codes
from kling_async.cli.output import Output, printable
from kling_async.errors import ConfigurationError
from kling_async.limits.shared.limiter import SharedLimiter

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from kling_async.limits.shared.backend import Lease, Usage

# Leases that are listed, those that end first.
_ENDING = 10

# Columns, in characters.
_KEY = 36
_HOLDER = 32


async def limits(args: Namespace) -> int:
    """Report the usage once."""
    if args.name is None and not os.environ.get("APIXO_API_KEY", "").strip():
        raise ConfigurationError("whose limits? pass --name, or set APIXO_API_KEY")
    async with SharedLimiter(args.url, name=args.name) as limiter:
        usage = await limiter.peek()
    Output(json=args.json).result(_lines(usage, limiter.name), _fields(usage, limiter.name))
    return codes.OK


def _lines(usage: Usage, name: str) -> Iterator[str]:
    if not usage.requests_per_minute and not usage.concurrent_tasks:
        yield f"Nobody has used limits of the name {name} there."
        return
    yield f"requests in the last minute  {_of(usage.requests, usage.requests_per_minute)}"
    yield f"slots in use                 {_of(len(usage.leases), usage.concurrent_tasks)}"
    if usage.effective_tasks < usage.concurrent_tasks:
        yield f"slots after refusals         {usage.effective_tasks:,} at the most, for now"
    yield f"pause after a refusal        {format_duration(usage.pause) if usage.pause else 'none'}"
    if not usage.leases:
        return
    yield ""
    yield f"{'slots by holder':<{_HOLDER}} {'slots':>9} {'oldest':>12} {'next end':>12}"
    for holder, group in groupby(sorted(usage.leases, key=_holder), _holder):
        held = list(group)
        oldest = format_duration(max(one.held_for for one in held))
        end = format_duration(min(one.ends_in for one in held))
        yield f"{printable(holder):<{_HOLDER}} {len(held):>9,} {oldest:>12} {end:>12}"
    yield ""
    yield f"{'slots that end first':<{_KEY}} {'held for':>12} {'ends in':>12}  by"
    for one in sorted(usage.leases, key=lambda one: one.ends_in)[:_ENDING]:
        times = f"{format_duration(one.held_for):>12} {format_duration(one.ends_in):>12}"
        yield f"{printable(one.key):<{_KEY}} {times}  {printable(one.holder)}"
    if (more := len(usage.leases) - _ENDING) > 0:
        yield f"and {more:,} more; --json has them all"


def _holder(lease: Lease) -> str:
    return lease.holder


def _of(used: int, limit: int) -> str:
    return f"{used:,} of {limit:,}" if limit else f"{used:,}"


def _fields(usage: Usage, name: str) -> dict[str, object]:
    return {
        "name": name,
        "requests": usage.requests,
        "requests_per_minute": usage.requests_per_minute,
        "slots": len(usage.leases),
        "concurrent_tasks": usage.concurrent_tasks,
        "effective_tasks": usage.effective_tasks,
        "pause": usage.pause,
        "leases": [
            {
                "ref": one.key if "/" in one.key else None,  # not known while it is submitted
                "holder": one.holder,
                "held_for": one.held_for,
                "ends_in": one.ends_in,
            }
            for one in usage.leases
        ],
    }
