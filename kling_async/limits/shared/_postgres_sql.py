"""The SQL of the limits in PostgreSQL: for each call the statements of one transaction.

They are sent in one message, so that the server runs them to their end, and releases the lock of
the name's row, even if this process is suspended meanwhile. A statement stores its results for the
next ones in that row, above all ``seen``, the time that counts as now in all of them.
"""

from __future__ import annotations

from kling_async.limits.shared.window import LEASE, STEP
from kling_async.limits.window import COUNTED_FOR

# Created by one process at a time.
TABLES = """
SELECT pg_advisory_xact_lock(hashtext('kling_async_limits'));
CREATE TABLE IF NOT EXISTS kling_async_limits (
    name text PRIMARY KEY,
    run text,  -- of the server; another one may have lost reservations
    born float8 NOT NULL DEFAULT 0,
    seen float8 NOT NULL DEFAULT '-infinity',
    set_back float8 NOT NULL DEFAULT 0,
    next_at float8 NOT NULL DEFAULT '-infinity',
    paused_at float8 NOT NULL DEFAULT '-infinity',
    resume_at float8 NOT NULL DEFAULT '-infinity',
    requests_per_minute bigint NOT NULL DEFAULT 0,
    concurrent_tasks bigint NOT NULL DEFAULT 0,
    learned text NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS kling_async_limits_holders (
    name text NOT NULL,
    holder text NOT NULL,
    sequence bigint NOT NULL DEFAULT 0,
    under_way bigint NOT NULL DEFAULT 0,
    ends_at float8 NOT NULL DEFAULT 0,
    PRIMARY KEY (name, holder)
);
CREATE TABLE IF NOT EXISTS kling_async_limits_window (
    name text NOT NULL,
    step bigint NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (name, step)
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
TABLES_EXIST = """
SELECT to_regclass('kling_async_limits'), to_regclass('kling_async_limits_holders'),
    to_regclass('kling_async_limits_window'), to_regclass('kling_async_leases')
"""

# Locks the row, and stores the time. A server that may have lost reservations grants nothing for a
# while. When its clock was set back, the processes report what they hold again.
_LOCK = """
INSERT INTO kling_async_limits (name) VALUES (%(name)s) ON CONFLICT DO NOTHING;
SELECT FROM kling_async_limits WHERE name = %(name)s FOR UPDATE;
"""
_UPDATE_TIME = f"""{_LOCK}
WITH clock AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS now,
        extract(epoch FROM pg_postmaster_start_time())::text AS this_run
), found AS MATERIALIZED (
    SELECT now, this_run, CASE WHEN seen - now >= 1 THEN seen - now ELSE 0 END AS back,
        run IS DISTINCT FROM this_run AS other
    FROM kling_async_limits, clock WHERE name = %(name)s
)
UPDATE kling_async_limits SET
    run = this_run,
    set_back = back,
    seen = CASE WHEN back > 0 THEN now ELSE greatest(seen, now) END,
    born = CASE WHEN other OR back > 0 THEN now ELSE born END,
    next_at = CASE WHEN back > 0 THEN now + %(grant_delay)s::float8
        WHEN other THEN greatest(next_at, now + %(grant_delay)s::float8) ELSE next_at END,
    paused_at = paused_at - back,
    resume_at = resume_at - back
FROM found WHERE name = %(name)s;
DELETE FROM kling_async_limits_holders h USING kling_async_limits l
WHERE l.name = %(name)s AND h.name = l.name AND set_back > 0;
DELETE FROM kling_async_limits_window w USING kling_async_limits l
WHERE l.name = %(name)s AND w.name = l.name
    AND (set_back > 0 OR step <= floor(seen / {STEP}));
UPDATE kling_async_leases s SET ends_at = ends_at - set_back, since = since - set_back
FROM kling_async_limits l WHERE l.name = %(name)s AND s.name = l.name AND set_back > 0;
"""  # noqa: S608 - constants

# See kling_async.limits.shared.window. A process that sends no reports counts as dead.
_EXPIRE = f"""
WITH dead AS (
    UPDATE kling_async_limits_holders h SET under_way = 0
    FROM (SELECT d.* FROM kling_async_limits_holders d, kling_async_limits l
        WHERE l.name = %(name)s AND d.name = l.name AND d.ends_at <= seen AND d.under_way > 0) d
    WHERE h.name = d.name AND h.holder = d.holder
    RETURNING ceil((d.ends_at + {COUNTED_FOR}) / {STEP})::bigint AS step, d.under_way
)
INSERT INTO kling_async_limits_window
SELECT %(name)s, step, sum(under_way) FROM dead GROUP BY step
ON CONFLICT (name, step) DO UPDATE SET number = kling_async_limits_window.number + excluded.number;
DELETE FROM kling_async_limits_holders h USING kling_async_limits l
WHERE l.name = %(name)s AND h.name = l.name AND h.ends_at <= seen - {COUNTED_FOR};
"""  # noqa: S608 - constants
_REPORT = f"""
INSERT INTO kling_async_limits_holders (name, holder) VALUES (%(name)s, %(holder)s)
ON CONFLICT DO NOTHING;
WITH accepted AS (
    UPDATE kling_async_limits_holders h
    SET sequence = %(sequence)s, under_way = %(in_flight)s, ends_at = seen + {LEASE}
    FROM kling_async_limits l
    WHERE l.name = %(name)s AND h.name = l.name AND holder = %(holder)s AND sequence = %(since)s
    RETURNING seen
)
INSERT INTO kling_async_limits_window
SELECT %(name)s, ceil((seen - age + {COUNTED_FOR}) / {STEP})::bigint AS step, sum(more)
FROM unnest(%(ages)s::float8[], %(numbers)s::bigint[]) AS answered (age, more), accepted
GROUP BY step
ON CONFLICT (name, step) DO UPDATE SET number = kling_async_limits_window.number + excluded.number;
"""  # noqa: S608 - constants

# Each grant is for the time at which the schedule allows it, and at which so many requests no
# longer count that it is within the limit.
_GRANT = f"""
WITH own AS MATERIALIZED (
    SELECT l.*, h.sequence, greatest(next_at, seen - %(burst)s::float8, resume_at) AS start
    FROM kling_async_limits l JOIN kling_async_limits_holders h USING (name)
    WHERE name = %(name)s AND holder = %(holder)s
), later AS MATERIALIZED (
    SELECT step * {STEP}::float8 AS at, number FROM kling_async_limits_window, own
    WHERE kling_async_limits_window.name = own.name AND step * {STEP}::float8 > seen
), room AS MATERIALIZED (
    SELECT '-infinity'::float8 AS at, %(requests_per_minute)s::bigint
        - (SELECT coalesce(sum(number), 0) FROM later)
        - (SELECT sum(under_way) FROM kling_async_limits_holders WHERE name = %(name)s) AS room
), rooms AS MATERIALIZED (
    SELECT at, room FROM room UNION ALL
    SELECT at, room + sum(number) OVER (ORDER BY at) FROM later, (SELECT room FROM room) AS r
), fits AS MATERIALIZED (
    SELECT place, (SELECT min(at) FROM rooms WHERE room > place) AS at
    FROM generate_series(0, %(number)s::bigint - 1) AS place, own
    WHERE sequence = %(sequence)s
), grants AS MATERIALIZED (
    SELECT place, place * %(interval)s::float8
        + greatest(start, max(at - place * %(interval)s::float8)
            OVER (ORDER BY place)) AS grant_at
    FROM fits, own WHERE at IS NOT NULL
), taken AS (
    UPDATE kling_async_limits_holders SET under_way = under_way + (SELECT count(*) FROM grants)
    WHERE name = %(name)s AND holder = %(holder)s AND EXISTS (SELECT FROM grants)
)
UPDATE kling_async_limits l SET
    requests_per_minute = %(requests_per_minute)s,
    next_at = coalesce((SELECT max(grant_at) + %(interval)s::float8 FROM grants), l.next_at)
FROM own WHERE l.name = own.name
RETURNING own.sequence, greatest(0, own.resume_at - own.seen), own.seen - own.paused_at, own.born,
    own.set_back, ARRAY(SELECT grant_at - seen FROM grants, own ORDER BY place)
"""  # noqa: S608 - constants
RESERVE = _UPDATE_TIME + _EXPIRE + _REPORT + _GRANT

PAUSE = f"""{_LOCK}
WITH refusal AS MATERIALIZED (
    SELECT now, now - %(age)s::float8 >= paused_at AS is_new
    FROM kling_async_limits, CAST(extract(epoch FROM clock_timestamp()) AS float8) AS n (now)
    WHERE name = %(name)s
)
UPDATE kling_async_limits SET
    paused_at = CASE WHEN is_new THEN now ELSE paused_at END,
    resume_at = CASE WHEN is_new OR resume_at > now
        THEN greatest(resume_at, now + %(delay)s::float8) ELSE resume_at END
FROM refusal WHERE name = %(name)s
RETURNING greatest(0, resume_at - now)
"""  # noqa: S608 - constants
UPDATE_LEASES = f"""{_UPDATE_TIME}
DELETE FROM kling_async_leases s USING kling_async_limits l
WHERE l.name = %(name)s AND s.name = l.name AND s.ends_at <= seen;
INSERT INTO kling_async_leases
SELECT name, key, %(holder)s, seen - held_for, seen + ends_in
FROM unnest(%(keys)s::text[], %(held_for)s::float8[], %(ends_in)s::float8[])
    AS renewed (key, held_for, ends_in), kling_async_limits WHERE name = %(name)s
ON CONFLICT (name, key) DO UPDATE
SET holder = excluded.holder, since = excluded.since, ends_at = excluded.ends_at
-- another process may hold it for longer
WHERE kling_async_leases.holder = excluded.holder
    OR kling_async_leases.ends_at <= excluded.ends_at;
INSERT INTO kling_async_leases
SELECT name, key, %(holder)s, seen, seen + %(lifetime)s::float8
FROM unnest(%(acquire)s::text[]) WITH ORDINALITY AS requested (key, place), kling_async_limits
WHERE name = %(name)s AND seen - born >= %(settle)s::float8
    AND place <= %(cap)s::bigint - (SELECT count(*) FROM kling_async_leases WHERE name = %(name)s)
RETURNING key;
DELETE FROM kling_async_leases WHERE name = %(name)s AND key = ANY(%(release)s::text[]);
UPDATE kling_async_limits l SET
    concurrent_tasks = %(limit)s,
    learned = CASE WHEN learned = %(old_learned)s THEN %(new_learned)s ELSE learned END
FROM (SELECT count(*) AS held, count(*) FILTER (WHERE position('/' IN key) > 0) AS confirmed
    FROM kling_async_leases WHERE name = %(name)s) AS counted
WHERE l.name = %(name)s RETURNING born, set_back, learned, held, confirmed
"""  # noqa: S608 - constants
USAGE = f"""
WITH clock AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS now
)
SELECT learned,
    (SELECT coalesce(sum(number), 0) FROM kling_async_limits_window w
        WHERE w.name = l.name AND step * {STEP}::float8 > now)
    + (SELECT coalesce(sum(under_way), 0) FROM kling_async_limits_holders h
        WHERE h.name = l.name AND ends_at > now - {COUNTED_FOR}),
    requests_per_minute, concurrent_tasks, greatest(0, resume_at - now),
    key, s.holder, now - since, ends_at - now
FROM clock CROSS JOIN kling_async_limits l
    LEFT JOIN kling_async_leases s ON s.name = l.name AND s.ends_at > now
WHERE l.name = %(name)s ORDER BY s.holder, since
"""  # noqa: S608 - constants
