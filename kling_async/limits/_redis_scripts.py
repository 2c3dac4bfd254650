"""What the engine in Redis runs there."""

from __future__ import annotations

__all__ = ["LEASE", "LOOK", "PAUSE", "RESERVE"]

# Numbers are passed as text: Lua's own has too few digits for microseconds, and Redis cuts off
# fractions. A server that was started again, or took over, has another run_id: what it knows
# may be older than what was reserved.
_COMMON = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function text(number) return string.format('%.6f', number) end
local function number(field) return tonumber(redis.call('HGET', KEYS[1], field) or '-1e18') end
"""

# A lease that never ends, of nobody, tells that the ends are those of this run: a server that is
# short of memory may evict a key of its own, and would then take the slots to be free.
_KNOW = (
    _COMMON
    + """
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then
  return redis.error_reply('NOPERM the limits need the right to INFO')
end
local function know(settle, forget)
  local run = string.match(info, 'run_id:(%x+)') or 'unknown'
  if redis.call('HGET', KEYS[1], 'run') ~= run or not redis.call('ZSCORE', KEYS[2], '') then
    local start = text(math.max(number('next'), now + settle))
    redis.call('HSET', KEYS[1], 'run', run, 'born', text(now), 'next', start)
    redis.call('ZADD', KEYS[2], '+inf', '')
    redis.call('EXPIRE', KEYS[2], forget)
  end
  return redis.call('HGET', KEYS[1], 'born')
end
"""
)

# KEYS: the state, the ends of leases. ARGV: how many turns, seconds between them, how far back
# they may lie, the settling, the limit, when to forget.
RESERVE = (
    _KNOW
    + """
local epoch, resume = know(tonumber(ARGV[4]), ARGV[6]), number('resume')
local start = math.max(number('next'), now - ARGV[3], resume)
local minute, used, before = math.floor(now / 60), tonumber(ARGV[1]), 0
local last = number('minute')
if last == minute then
  used, before = used + number('used'), number('before')
elseif last == minute - 1 then
  before = number('used')
end
redis.call('HSET', KEYS[1], 'next', text(start + ARGV[1] * ARGV[2]), 'requests', ARGV[5],
  'minute', minute, 'used', used, 'before', before)
redis.call('EXPIRE', KEYS[1], ARGV[6])
return {text(start - now), text(math.max(0, resume - now)), text(now - number('paused')), epoch}
"""
)

# KEYS: the state. ARGV: seconds from now, and since the refused request was admitted.
PAUSE = (
    _COMMON
    + """
local resume, began = number('resume'), 0
if now - ARGV[2] >= number('paused') then
  began, resume = 1, math.max(resume, now + ARGV[1])
  redis.call('HSET', KEYS[1], 'paused', text(now), 'resume', text(resume))
end
return {began, text(math.max(0, resume - now))}
"""
)

# KEYS: the state, the ends of leases, their holders. ARGV: the settling of requests and of
# leases, the limit, the lifetime, the holder, when to forget, and how many there are of each:
# holds (key, since, ends), ids, keys to drop.
LEASE = (
    _KNOW
    + """
local epoch = know(tonumber(ARGV[1]), ARGV[6])
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], key)
  redis.call('HDEL', KEYS[3], key)
end
local at = 10
local function keep(key, held_for, ends_in)
  -- Never to end earlier: another process may have renewed it since.
  redis.call('ZADD', KEYS[2], 'GT', text(now + ends_in), key)
  redis.call('HSET', KEYS[3], key, text(now - held_for) .. ' ' .. ARGV[5])
end
for _ = 1, ARGV[7] do
  keep(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  at = at + 3
end
local free = 0
if now - epoch >= tonumber(ARGV[2]) then free = ARGV[3] - (redis.call('ZCARD', KEYS[2]) - 1) end
local taken = math.max(0, math.min(tonumber(ARGV[8]), free))
for i = 0, taken - 1 do keep(ARGV[at + i], 0, ARGV[4]) end
at = at + ARGV[8]
for i = 0, ARGV[9] - 1 do
  redis.call('ZREM', KEYS[2], ARGV[at + i])
  redis.call('HDEL', KEYS[3], ARGV[at + i])
end
redis.call('HSET', KEYS[1], 'tasks', ARGV[3])
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[6]) end
return {taken, epoch}
"""
)

# KEYS: as for leases.
LOOK = (
    _COMMON
    + """
local minute, last, used, before = now / 60, number('minute'), number('used'), number('before')
if last == math.floor(minute) then
  used = used + before * (1 - minute % 1)
elseif last == math.floor(minute) - 1 then
  used = used * (1 - minute % 1)
else
  used = 0
end
local told = {text(math.max(0, used)), text(math.max(0, number('requests'))),
  text(math.max(0, number('tasks'))), text(math.max(0, number('resume') - now))}
local leases = redis.call('ZRANGEBYSCORE', KEYS[2], text(now), '+inf', 'WITHSCORES')
for i = 1, #leases, 2 do
  if leases[i] ~= '' then
    local held = redis.call('HGET', KEYS[3], leases[i]) or text(now) .. ' ?'
    local since, holder = string.match(held, '(%S+) (.*)')
    for _, one in ipairs({leases[i], holder, text(now - since), text(leases[i + 1] - now)}) do
      told[#told + 1] = one
    end
  end
end
return told
"""
)
