"""References of paid tasks that arrive when the worker's lease has expired.

The worker that took over its items found one whose submit was not answered yet, and recorded it as
unsure. The reference proves its task: it is recorded whichever worker has the item now, unless the
item was submitted again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async.journal.serialization import format_details

if TYPE_CHECKING:
    from kling_async.journal.base import Transition
    from kling_async.journal.postgres._schema import Database

_RECORD = """
    WITH proven AS (
        UPDATE kling_async_items SET state = 'submitted', ref = %(ref)s, trace = %(trace)s,
            failure = NULL, changed_at = %(at)s, moved_at = clock_timestamp()
        WHERE batch = %(batch)s AND key = %(key)s AND attempt = %(attempt)s
            AND state IN ('submitting', 'unsure')
        RETURNING id, attempt, state, changed_at, ref
    )
    INSERT INTO kling_async_history (item, attempt, state, at, ref)
    SELECT * FROM proven RETURNING id
"""


async def record_late(db: Database, batch: int, transition: Transition) -> bool:
    """Record a reference without a lease; return whether it was recorded."""
    values = {
        **format_details(transition),
        "batch": batch,
        "key": transition.key,
        "attempt": transition.attempt,
        "at": transition.at,
    }
    (rows,) = await db.send(_RECORD, values)
    return bool(rows)
