"""The Lua scripts of the backend in Redis.

KEYS of all scripts: the state of the name, the expiry of each lease, the request window, and the
start and holder of each lease. ARGV: the arguments as one JSON text. They return JSON as well.
"""

from __future__ import annotations

from kling_async.limits.shared.window import LEASE, STEP
from kling_async.limits.window import COUNTED_FOR

# Times are stored as text: Redis cuts off fractions of Lua's numbers, and JSON has too few digits
# for the time in microseconds.
_COMMON = """
local a = cjson.decode(ARGV[1])
local STATE, EXPIRY, WINDOW, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function text(number) return string.format('%.6f', number) end
local function number(field) return tonumber(redis.call('HGET', STATE, field) or '-1e18') end
"""

# A server that was restarted, or took over, has another run_id: its data may be older than the
# last grants. A lease that never expires, and a field of the window, show that these keys are of
# this run: a server that is short of memory may evict keys, so that what is in use would look free.
_OPEN = (
    _COMMON
    + """
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then
  return redis.error_reply('NOPERM the limits need the right to INFO')
end
local run = string.match(info, 'run_id:(%x+)') or 'unknown'
local set_back = math.max(0, number('seen') - now)
if set_back < 1 then set_back = 0 end
if set_back > 0 then -- processes report again what they have, and since when
  redis.call('DEL', WINDOW)
  redis.call('HSET', STATE, 'next', '-1e18', 'paused', text(number('paused') - set_back),
    'resume', text(number('resume') - set_back))
  for _, key in ipairs(redis.call('ZRANGE', EXPIRY, 0, -1)) do
    redis.call('ZINCRBY', EXPIRY, -set_back, key)
  end
end
if redis.call('HGET', STATE, 'run') ~= run or not redis.call('ZSCORE', EXPIRY, '')
    or redis.call('HEXISTS', WINDOW, 'run') == 0 then
  local start = text(math.max(number('next'), now + a.schedule.settle))
  redis.call('HSET', STATE, 'run', run, 'born', text(now), 'next', start)
  redis.call('ZADD', EXPIRY, '+inf', '')
  redis.call('HSET', WINDOW, 'run', run)
end
redis.call('HSET', STATE, 'seen', text(set_back > 0 and now or math.max(now, number('seen'))))
local epoch = redis.call('HGET', STATE, 'born')
"""
)
_FORGET = "for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], a.forget_after) end\n"

# See kling_async.limits.shared.window. Fields: of each step, how many requests cease to count then;
# of each process, after an @, its last report, what it has in flight, and until when.
_WINDOW = f"""
local STEP, COUNTED_FOR, LEASE = {STEP}, {COUNTED_FOR}, {LEASE}
local ended, holders, used = {{}}, {{}}, 0
local function step_of(at) return math.ceil((at + COUNTED_FOR) / STEP) end
local function parts(value)
  local last, in_flight, ends = string.match(value, '(%S+) (%S+) (%S+)')
  return tonumber(last), tonumber(in_flight), tonumber(ends)
end
local function count(step, more)
  if step * STEP > now then ended[step], used = (ended[step] or 0) + more, used + more end
end
local fields = redis.call('HGETALL', WINDOW)
for i = 1, #fields, 2 do
  local field, value = fields[i], fields[i + 1]
  if string.sub(field, 1, 1) == '@' then
    local _, in_flight, ends = parts(value)
    if ends <= now then count(step_of(ends), in_flight) else used = used + in_flight end
    holders[field] = value
  elseif field ~= 'run' then
    count(tonumber(field), tonumber(value))
  end
end
"""

RESERVE = f"""{_OPEN}{_WINDOW}
local function add(step, more) redis.call('HINCRBY', WINDOW, string.format('%.0f', step), more) end
for field, value in pairs(holders) do
  local last, in_flight, ends = parts(value)
  if ends <= now and in_flight > 0 then
    add(step_of(ends), in_flight)
    holders[field] = string.format('%.0f 0 ', last) .. text(ends)
    redis.call('HSET', WINDOW, field, holders[field])
  end
  if ends <= now - COUNTED_FOR then redis.call('HDEL', WINDOW, field) end
end
for i = 1, #fields, 2 do
  local step = tonumber(fields[i])
  if step and step * STEP <= now then redis.call('HDEL', WINDOW, fields[i]) end
end
local holder, resume, delays = '@' .. a.report.holder, number('resume'), {{}}
local limit, report = a.schedule.requests_per_minute, a.report
local acknowledged, before = parts(holders[holder] or '0 0 0')
if acknowledged == report.since then
  acknowledged, used = report.sequence, used - before + report.in_flight
  for _, group in ipairs(report.answered) do
    local step = step_of(now - group[1])
    count(step, group[2])
    if step * STEP > now then add(step, group[2]) end
  end
  local steps, room, from, at = {{}}, limit - used, now, 0
  for step in pairs(ended) do steps[#steps + 1] = step end
  table.sort(steps)
  local due = math.max(number('next'), now - a.schedule.burst, resume)
  while #delays < a.number do
    while room <= 0 and at < #steps do
      at = at + 1
      room, from = room + ended[steps[at]], steps[at] * STEP
    end
    if room <= 0 then break end
    if from > now then due = math.max(due, from) end
    delays[#delays + 1] = due - now
    due, room = due + a.schedule.interval, room - 1
  end
  if #delays > 0 then redis.call('HSET', STATE, 'next', text(due)) end
  redis.call('HSET', WINDOW, holder, string.format('%.0f %.0f ', acknowledged,
    report.in_flight + #delays) .. text(now + LEASE))
end
redis.call('HSET', STATE, 'requests', limit)
{_FORGET}
return cjson.encode({{delays = delays, acknowledged = acknowledged,
  pause = math.max(0, resume - now), paused_for = now - number('paused'), epoch = epoch,
  set_back = set_back}})
"""

PAUSE = f"""{_COMMON}
local resume, is_new = number('resume'), now - a.age >= number('paused')
if is_new then redis.call('HSET', STATE, 'paused', text(now)) end
if is_new or resume > now then
  resume = math.max(resume, now + a.delay)
  redis.call('HSET', STATE, 'resume', text(resume))
end
return cjson.encode({{remaining = math.max(0, resume - now)}})
"""

UPDATE_LEASES = f"""{_OPEN}
local function drop(key)
  redis.call('ZREM', EXPIRY, key)
  redis.call('HDEL', HELD, key)
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now)) do drop(key) end
local function keep(key, held_for, ends_in)
  redis.call('ZADD', EXPIRY, text(now + ends_in), key)
  redis.call('HSET', HELD, key, text(now - held_for) .. ' ' .. a.holder)
end
for _, lease in ipairs(a.renew) do
  local ends = tonumber(redis.call('ZSCORE', EXPIRY, lease.key) or '-1')
  local holder = string.match(redis.call('HGET', HELD, lease.key) or '', '%S+ (.*)')
  -- Another process may have it for longer.
  if holder == a.holder or ends <= now + lease.ends_in then
    keep(lease.key, lease.held_for, lease.ends_in)
  end
end
local free, acquired = 0, {{}}
if now - epoch >= a.settle then free = a.cap - (redis.call('ZCARD', EXPIRY) - 1) end
for i = 1, math.min(#a.acquire, free) do
  acquired[i] = a.acquire[i]
  keep(acquired[i], 0, a.lifetime)
end
for _, key in ipairs(a.release) do drop(key) end
local learned = redis.call('HGET', STATE, 'learned') or ''
if a.learned ~= cjson.null and a.learned[1] == learned then
  learned = a.learned[2]
  redis.call('HSET', STATE, 'learned', learned)
end
redis.call('HSET', STATE, 'tasks', a.limit)
{_FORGET}
local confirmed, held = 0, 0
for _, key in ipairs(redis.call('ZRANGE', EXPIRY, 0, -1)) do
  if key ~= '' then held = held + 1 end
  if string.find(key, '/', 1, true) then confirmed = confirmed + 1 end
end
return cjson.encode({{acquired = acquired, epoch = epoch, learned = learned, held = held,
  confirmed = confirmed, set_back = set_back}})
"""

PEEK = f"""{_COMMON}{_WINDOW}
local leases, expiry = {{}}, redis.call('ZRANGEBYSCORE', EXPIRY, text(now), '+inf', 'WITHSCORES')
for i = 1, #expiry, 2 do
  if expiry[i] ~= '' then
    local held = redis.call('HGET', HELD, expiry[i]) or text(now) .. ' ?'
    local since, holder = string.match(held, '(%S+) (.*)')
    leases[#leases + 1] = {{expiry[i], holder, now - since, expiry[i + 1] - now}}
  end
end
return cjson.encode({{requests = used, requests_per_minute = math.max(0, number('requests')),
  concurrent_tasks = math.max(0, number('tasks')),
  learned = redis.call('HGET', STATE, 'learned') or '',
  pause = math.max(0, number('resume') - now), leases = leases}})
"""
