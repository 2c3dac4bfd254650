"""``kling-async limits``: how much of shared limits is in use, and by which processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attrs import asdict

from kling_async._utils.text import format_duration
from kling_async.cli import exit_codes
from kling_async.cli.output import Output
from kling_async.errors import ConfigurationError
from kling_async.limits.shared.limiter import SharedLimiter

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from kling_async.limits.shared.backend import Lease, Usage

# Leases that are listed: those that end first.
_LISTED = 10


async def run_limits(args: Namespace) -> int:
    """Report the current usage."""
    if args.name is None and not os.environ.get("APIXO_API_KEY", "").strip():
        raise ConfigurationError("which limits? pass --name, or set APIXO_API_KEY")
    async with SharedLimiter(args.url, name=args.name) as limiter:
        usage = await limiter.peek()
    fields = asdict(usage, recurse=False)
    fields |= {"name": limiter.name, "slots": len(usage.leases)}
    fields["leases"] = leases = [asdict(lease) for lease in usage.leases]
    for lease in leases:
        key = lease.pop("key")
        lease["ref"] = key if "/" in key else None  # unknown until the submit is accepted
    Output(json=args.json).print_result(_format_lines(usage, limiter.name), fields)
    return exit_codes.OK


def _format_lines(usage: Usage, name: str) -> Iterator[str]:
    if not usage.requests_per_minute and not usage.concurrent_tasks:
        yield f"There are no limits of the name {name}: no process has used them."
        return
    slots = len(usage.leases)
    yield f"requests in the last minute  {_share(usage.requests, usage.requests_per_minute)}"
    yield f"slots in use                 {_share(slots, usage.concurrent_tasks)}"
    if usage.effective_tasks < usage.concurrent_tasks:
        yield f"slots after refusals         at most {usage.effective_tasks:,} for now"
    yield f"pause after a refusal        {format_duration(usage.pause) if usage.pause else 'none'}"
    if not slots:
        return
    by_holder: dict[str, list[Lease]] = {}
    for lease in usage.leases:
        by_holder.setdefault(lease.holder, []).append(lease)
    yield ""
    yield f"{'slots by holder':<32} {'slots':>9} {'oldest':>12} {'next end':>12}"
    for holder, held in sorted(by_holder.items()):
        oldest = format_duration(max(lease.held_for for lease in held))
        end = format_duration(min(lease.ends_in for lease in held))
        yield f"{holder:<32} {len(held):>9,} {oldest:>12} {end:>12}"
    yield ""
    yield f"{'slots that end first':<36} {'held for':>12} {'ends in':>12}  by"
    for lease in sorted(usage.leases, key=lambda lease: lease.ends_in)[:_LISTED]:
        times = f"{format_duration(lease.held_for):>12} {format_duration(lease.ends_in):>12}"
        yield f"{lease.key:<36} {times}  {lease.holder}"
    if slots > _LISTED:
        yield f"and {slots - _LISTED:,} more; --json has all of them"


def _share(used: int, limit: int) -> str:
    return f"{used:,} of {limit:,}" if limit else f"{used:,}"
