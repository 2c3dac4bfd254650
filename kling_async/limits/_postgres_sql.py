"""What the engine in PostgreSQL says to it."""

from __future__ import annotations

__all__ = [
    "DROP",
    "EPOCH",
    "EXPIRE",
    "HOLD",
    "KNOWN",
    "LOOK",
    "NAME",
    "PAUSE",
    "RESERVE",
    "TABLES",
    "TAKE",
]

# One after another, though several processes may begin at the same moment.
TABLES = """
SELECT pg_advisory_xact_lock(hashtext('kling_async_limits'));
CREATE TABLE IF NOT EXISTS kling_async_limits (
    name text PRIMARY KEY,
    run text,  -- of the server; another one may know less than was reserved
    born float8 NOT NULL DEFAULT 0,
    next_at float8 NOT NULL DEFAULT '-infinity',
    paused_at float8 NOT NULL DEFAULT '-infinity',
    resume_at float8 NOT NULL DEFAULT '-infinity',
    requests_per_minute bigint NOT NULL DEFAULT 0,
    concurrent_tasks bigint NOT NULL DEFAULT 0,
    minute bigint NOT NULL DEFAULT 0,
    used bigint NOT NULL DEFAULT 0,
    used_before bigint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS kling_async_leases (
    name text NOT NULL,
    key text NOT NULL,
    holder text NOT NULL,
    since float8 NOT NULL,
    ends_at float8 NOT NULL,
    PRIMARY KEY (name, key)
);
"""
KNOWN = "SELECT to_regclass('kling_async_limits'), to_regclass('kling_async_leases')"
NAME = "INSERT INTO kling_async_limits (name) VALUES (%(name)s) ON CONFLICT DO NOTHING"

# The state as it was, locked, and whether it was another server's. A new one knows nothing of
# what was reserved before, and begins with a rest.
_STATE = """
WITH clock AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS now,
        extract(epoch FROM pg_postmaster_start_time())::text AS this_run
), was AS MATERIALIZED (
    SELECT l.*, now, this_run, floor(now / 60)::bigint AS this_minute,
        CASE WHEN run = this_run THEN born ELSE now END AS epoch,
        CASE WHEN run = this_run THEN next_at
            ELSE greatest(next_at, now + %(settle)s::float8) END AS free_at
    FROM kling_async_limits l, clock WHERE name = %(name)s FOR UPDATE OF l
)
"""
RESERVE = f"""{_STATE}, turn AS (
    SELECT was.*, greatest(free_at, now - %(burst)s::float8, resume_at) AS start FROM was
)
UPDATE kling_async_limits l SET
    run = this_run,
    born = epoch,
    next_at = start + %(number)s::bigint * %(interval)s::float8,
    requests_per_minute = %(requests)s,
    minute = this_minute,
    used = %(number)s::bigint + CASE WHEN t.minute = this_minute THEN t.used ELSE 0 END,
    used_before = CASE this_minute - t.minute
        WHEN 0 THEN t.used_before WHEN 1 THEN t.used ELSE 0 END
FROM turn t WHERE l.name = t.name
RETURNING start - now, greatest(0, t.resume_at - now), now - t.paused_at, epoch
"""  # noqa: S608 - both parts stand here
PAUSE = """
WITH clock AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS now
), was AS MATERIALIZED (
    SELECT l.*, now, now - %(age)s::float8 >= paused_at AS began
    FROM kling_async_limits l, clock WHERE name = %(name)s FOR UPDATE OF l
)
UPDATE kling_async_limits l SET
    paused_at = CASE WHEN began THEN now ELSE w.paused_at END,
    resume_at = CASE WHEN began THEN greatest(w.resume_at, now + %(delay)s::float8)
        ELSE w.resume_at END
FROM was w WHERE l.name = w.name
RETURNING began, greatest(0, l.resume_at - now)
"""
EPOCH = f"""{_STATE}UPDATE kling_async_limits l
SET run = this_run, born = epoch, next_at = free_at, concurrent_tasks = %(limit)s
FROM was WHERE l.name = was.name RETURNING epoch
"""  # noqa: S608 - as above
EXPIRE = """
DELETE FROM kling_async_leases
WHERE name = %(name)s AND ends_at <= extract(epoch FROM clock_timestamp())
"""
HOLD = """
INSERT INTO kling_async_leases
SELECT %(name)s, key, %(holder)s, now - held_for, now + ends_in
FROM unnest(%(keys)s::text[], %(held_for)s::float8[], %(ends_in)s::float8[])
    AS told (key, held_for, ends_in),
    (SELECT extract(epoch FROM clock_timestamp())::float8 AS now) AS clock
ON CONFLICT (name, key) DO UPDATE
SET holder = excluded.holder, since = excluded.since,
    -- another process may have renewed it since
    ends_at = greatest(kling_async_leases.ends_at, excluded.ends_at)
"""
TAKE = """
WITH clock AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS now
), free AS MATERIALIZED (
    SELECT CASE WHEN now - born >= %(calm)s::float8
        THEN greatest(0, %(limit)s::bigint - (SELECT count(*) FROM kling_async_leases
            WHERE name = %(name)s)) ELSE 0 END AS number
    FROM kling_async_limits, clock WHERE name = %(name)s
)
INSERT INTO kling_async_leases
SELECT %(name)s, key, %(holder)s, now, now + %(lifetime)s::float8
FROM unnest(%(take)s::text[]) WITH ORDINALITY AS asked (key, place), clock, free
WHERE place <= number
RETURNING key
"""
DROP = "DELETE FROM kling_async_leases WHERE name = %(name)s AND key = ANY(%(drop)s)"
LOOK = """
WITH clock AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS now
)
SELECT
    CASE floor(now / 60)::bigint - minute
        WHEN 0 THEN used + used_before * (1 - (now / 60 - floor(now / 60)))
        WHEN 1 THEN used * (1 - (now / 60 - floor(now / 60))) ELSE 0 END,
    requests_per_minute, concurrent_tasks, greatest(0, resume_at - now),
    key, holder, now - since, ends_at - now
FROM clock CROSS JOIN kling_async_limits l
    LEFT JOIN kling_async_leases s ON s.name = l.name AND s.ends_at > now
WHERE l.name = %(name)s ORDER BY holder, since
"""
