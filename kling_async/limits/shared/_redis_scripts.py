"""What the engine in Redis runs there."""

from __future__ import annotations

from kling_async.limits.shared.window import COUNTED, LEASE, STEP

# Numbers are passed as text: Lua's own has too few digits for microseconds, and Redis cuts off
# fractions. A server that was started again, or took over, has another run_id: what it knows
# may be older than what was reserved.
_COMMON = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function text(number) return string.format('%.6f', number) end
local function number(field) return tonumber(redis.call('HGET', KEYS[1], field) or '-1e18') end
"""

# A lease that never ends, of nobody, and a field of the window tell that these are of this run:
# a server that is short of memory may evict keys, and would take what is in use to be free.
# KEYS: the state, the ends of leases, the window.
_KNOW = (
    _COMMON
    + """
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then
  return redis.error_reply('NOPERM the limits need the right to INFO')
end
local function know(settle)
  local run = string.match(info, 'run_id:(%x+)') or 'unknown'
  local set_back = math.max(0, number('seen') - now)
  if set_back < 1 then set_back = 0 end
  if set_back > 0 then -- processes report again what they have, and when it was
    redis.call('DEL', KEYS[3])
    redis.call('HSET', KEYS[1], 'next', '-1e18', 'paused', text(number('paused') - set_back),
      'resume', text(number('resume') - set_back))
    local ends = redis.call('ZRANGE', KEYS[2], 0, -1)
    for _, key in ipairs(ends) do redis.call('ZINCRBY', KEYS[2], -set_back, key) end
  end
  if redis.call('HGET', KEYS[1], 'run') ~= run or not redis.call('ZSCORE', KEYS[2], '')
      or redis.call('HEXISTS', KEYS[3], 'run') == 0 then
    local start = text(math.max(number('next'), now + settle))
    redis.call('HSET', KEYS[1], 'run', run, 'born', text(now), 'next', start)
    redis.call('ZADD', KEYS[2], '+inf', '')
    redis.call('HSET', KEYS[3], 'run', run)
  end
  local seen = set_back > 0 and now or math.max(now, number('seen'))
  redis.call('HSET', KEYS[1], 'seen', text(seen))
  return redis.call('HGET', KEYS[1], 'born'), text(set_back)
end
local function forget_in(seconds)
  for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], seconds) end
end
"""
)

# What kling_async.limits.shared.window describes. Fields: of each step, how many requests cease to
# count then; of each process, behind an @, its last report, what it has under way, and until when.
_WINDOW = f"""
local STEP, COUNTED, LEASE = {STEP}, {COUNTED}, {LEASE}
local ended, holders, used = {{}}, {{}}, 0
local function step_of(at) return math.ceil((at + COUNTED) / STEP) end
local function parts(value)
  local last, under_way, ends = string.match(value, '(%S+) (%S+) (%S+)')
  return tonumber(last), tonumber(under_way), tonumber(ends)
end
local function count(step, more)
  if step * STEP > now then ended[step], used = (ended[step] or 0) + more, used + more end
end
local fields = redis.call('HGETALL', KEYS[3])
for i = 1, #fields, 2 do
  local field, value = fields[i], fields[i + 1]
  if string.sub(field, 1, 1) == '@' then
    local _, under_way, ends = parts(value)
    if ends <= now then count(step_of(ends), under_way) else used = used + under_way end
    holders[field] = value
  elseif field ~= 'run' then
    count(tonumber(field), tonumber(value))
  end
end
"""

# ARGV: how many turns, seconds between them, how far back they may lie, the settling, the limit,
# when to forget; of the report: the process, its number, the one before, how many are under way;
# and pairs of how long ago, and how many.
RESERVE = (
    _KNOW
    + """
local epoch, set_back = know(tonumber(ARGV[4]))
"""
    + _WINDOW
    + """
local function add(step, more) redis.call('HINCRBY', KEYS[3], string.format('%.0f', step), more) end
for field, value in pairs(holders) do
  local last, under_way, ends = parts(value)
  if ends <= now and under_way > 0 then
    add(step_of(ends), under_way)
    holders[field] = string.format('%.0f 0 ', last) .. text(ends)
    redis.call('HSET', KEYS[3], field, holders[field])
  end
  if ends <= now - COUNTED then redis.call('HDEL', KEYS[3], field) end
end
for i = 1, #fields, 2 do
  local step = tonumber(fields[i])
  if step and step * STEP <= now then redis.call('HDEL', KEYS[3], fields[i]) end
end
local me, resume, delays = '@' .. ARGV[7], number('resume'), {}
local known, before = parts(holders[me] or '0 0 0')
if known == tonumber(ARGV[9]) then
  known = tonumber(ARGV[8])
  used = used - before + ARGV[10]
  for i = 11, #ARGV, 2 do
    local step = step_of(now - ARGV[i])
    count(step, tonumber(ARGV[i + 1]))
    if step * STEP > now then add(step, ARGV[i + 1]) end
  end
  local steps, room, moment, at = {}, ARGV[5] - used, now, 0
  for step in pairs(ended) do steps[#steps + 1] = step end
  table.sort(steps)
  local earliest = math.max(now - ARGV[3], resume)
  local turn = math.max(number('next'), earliest)
  while #delays < tonumber(ARGV[1]) do
    while room <= 0 and at < #steps do
      at = at + 1
      room, moment = room + ended[steps[at]], steps[at] * STEP
    end
    if room <= 0 then break end
    if moment > now then turn = math.max(turn, moment) end
    delays[#delays + 1] = text(turn - now)
    turn, room = turn + ARGV[2], room - 1
  end
  if #delays > 0 then redis.call('HSET', KEYS[1], 'next', text(turn)) end
  redis.call('HSET', KEYS[3], me, string.format('%.0f %.0f ', known, ARGV[10] + #delays)
    .. text(now + LEASE))
end
redis.call('HSET', KEYS[1], 'requests', ARGV[5])
forget_in(ARGV[6])
return {string.format('%.0f', known), text(math.max(0, resume - now)), text(now - number('paused')),
  epoch, set_back, unpack(delays)}
"""
)

# KEYS: the state. ARGV: seconds from now, and since the refused request was admitted.
PAUSE = (
    _COMMON
    + """
local resume, began, ends = number('resume'), 0, now + ARGV[1]
local first = now - ARGV[2] >= number('paused')
if first then redis.call('HSET', KEYS[1], 'paused', text(now)) end
if first or resume > now and ends > resume then
  began, resume = 1, math.max(resume, ends)
  redis.call('HSET', KEYS[1], 'resume', text(resume))
end
return {began, text(math.max(0, resume - now))}
"""
)

# KEYS: the state, the ends of leases, the window, the leases' holders. ARGV: the settling of
# requests and of leases, the limit, the cap, the lifetime, the holder, when to forget, what is
# known of the cap and what replaces it, and how many there are of each: holds (key, since, ends),
# ids, keys to drop.
LEASE_SCRIPT = (
    _KNOW
    + """
local epoch, set_back = know(tonumber(ARGV[1]))
local confirmed, held = 0, 0
local function drop(key)
  redis.call('ZREM', KEYS[2], key)
  redis.call('HDEL', KEYS[4], key)
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do drop(key) end
local at = 13
local function keep(key, held_for, ends_in)
  redis.call('ZADD', KEYS[2], text(now + ends_in), key)
  redis.call('HSET', KEYS[4], key, text(now - held_for) .. ' ' .. ARGV[6])
end
for _ = 1, ARGV[10] do
  local key, ends = ARGV[at], tonumber(redis.call('ZSCORE', KEYS[2], ARGV[at]) or '-1')
  local holder = string.match(redis.call('HGET', KEYS[4], key) or '', '%S+ (.*)')
  -- Another process may have it for longer.
  if holder == ARGV[6] or ends <= now + ARGV[at + 2] then
    keep(key, ARGV[at + 1], ARGV[at + 2])
  end
  at = at + 3
end
local free = 0
if now - epoch >= tonumber(ARGV[2]) then free = ARGV[4] - (redis.call('ZCARD', KEYS[2]) - 1) end
local taken = math.max(0, math.min(tonumber(ARGV[11]), free))
for i = 0, taken - 1 do keep(ARGV[at + i], 0, ARGV[5]) end
at = at + ARGV[11]
for i = 0, ARGV[12] - 1 do drop(ARGV[at + i]) end
if ARGV[8] ~= ARGV[9] and (redis.call('HGET', KEYS[1], 'learned') or '') == ARGV[8] then
  redis.call('HSET', KEYS[1], 'learned', ARGV[9])
end
redis.call('HSET', KEYS[1], 'tasks', ARGV[3])
forget_in(ARGV[7])
for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if key ~= '' then held = held + 1 end
  if string.find(key, '/', 1, true) then confirmed = confirmed + 1 end
end
return {taken, epoch, redis.call('HGET', KEYS[1], 'learned') or '', held, confirmed, set_back}
"""
)

# KEYS: as for leases.
LOOK = (
    _COMMON
    + _WINDOW
    + """
local told = {string.format('%.0f', used), text(math.max(0, number('requests'))),
  text(math.max(0, number('tasks'))), redis.call('HGET', KEYS[1], 'learned') or '',
  text(math.max(0, number('resume') - now))}
local leases = redis.call('ZRANGEBYSCORE', KEYS[2], text(now), '+inf', 'WITHSCORES')
for i = 1, #leases, 2 do
  if leases[i] ~= '' then
    local held = redis.call('HGET', KEYS[4], leases[i]) or text(now) .. ' ?'
    local since, holder = string.match(held, '(%S+) (.*)')
    for _, one in ipairs({leases[i], holder, text(now - since), text(leases[i + 1] - now)}) do
      told[#told + 1] = one
    end
  end
end
return told
"""
)
