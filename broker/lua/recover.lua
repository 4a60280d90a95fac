-- Give the claims of a worker back to the heads of the lists that they came from, in their order (after home.lua).
-- KEYS  1 workers   2 queue   3 claims of that worker   4 attempts   5 states   6 bell   7 polled   8, 9 turns
-- ARGV  1 that worker   2 why   3 TTL of keys in seconds   4 how many tokens the bell keeps   5 prefix of result keys
--   why 'lapsed':  a peer found its lease lapsed; it becomes a tombstone, each job gets an attempt. One whose
--                  worker was last heard in the future, before Redis' clock went back, is cut to its length
--       'release': the worker itself gives back what it has not begun, and lives on
--       'leave':   the same, and it leaves a tombstone
-- Returns {'unknown'}, {'live'} (lapsed: its lease is live) or {'lease'} (release, leave: it is not), each with nothing
--   changed; else {'ok', number of jobs given back}. A key of a wrong type stops it before it has changed anything.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
local lease = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
if not lease then return {'unknown'} end
if ARGV[2] == 'lapsed' and lease > now then
  local state = redis.pcall('HGET', KEYS[5], ARGV[1])
  local heard = type(state) == 'string' and tonumber(string.match(state, '"heartbeat":([%d.]+)'))
  if heard and heard > now and lease > heard then redis.call('ZADD', KEYS[1], now + lease - heard, ARGV[1]) end
  return {'live'}
end
if ARGV[2] ~= 'lapsed' and lease <= now then return {'lease'} end

for _, list in ipairs({KEYS[2], KEYS[3], KEYS[6], KEYS[7]}) do redis.call('LLEN', list) end
local _ = redis.call('HLEN', KEYS[4]) + redis.call('ZCARD', KEYS[8]) + redis.call('ZCARD', KEYS[9])
if ARGV[2] ~= 'release' then
  if lease >= 0 then redis.call('ZADD', KEYS[1], -now, ARGV[1]) end
  redis.pcall('HDEL', KEYS[5], ARGV[1])
end
local moved = 0
while true do
  local job = redis.call('LMOVE', KEYS[3], KEYS[2], 'RIGHT', 'LEFT')
  if not job then break end
  take_home(job)
  moved = moved + 1
  if ARGV[2] == 'lapsed' then redis.call('HINCRBY', KEYS[4], string.sub(job, 8, 43), 1) end
  redis.call('RPUSH', KEYS[6], '1')
end
redis.call('LTRIM', KEYS[6], -ARGV[4], -1)
for _, key in ipairs({KEYS[1], KEYS[2], KEYS[4], KEYS[6], KEYS[7]}) do redis.call('EXPIRE', key, ARGV[3]) end
return {'ok', moved}
