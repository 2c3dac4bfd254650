"""Limits that several processes share through Redis or PostgreSQL.

A call passes through these modules:

1. ``limiter``: :class:`SharedLimiter` has one state for each event loop.
2. ``request_grants`` and ``slot_leases``: callers wait here. Each of the two makes one call to the
   backend at a time (``_call_loop``), for all of them.
3. ``availability``: notices when the backend cannot be reached or has lost its state.
4. ``backend``: the interface, implemented by ``memory``, ``redis`` and ``postgres``.

Pure are ``window`` (what counts against the limit of requests), ``schedule`` (when the next grant
is due) and ``_learned_cap`` (how many tasks may run after a refusal).
"""

from kling_async.limits.shared.limiter import SharedLimiter

__all__ = ["SharedLimiter"]
