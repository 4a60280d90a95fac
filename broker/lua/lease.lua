-- Register a worker's lease, or renew it. It changes no job.
-- KEYS  1 workers
-- ARGV  1 worker   2 length of the lease in seconds   3 'register' or 'renew'   4 TTL of keys in seconds
-- Returns {'ok' or 'lease', Redis' time}. 'lease': it was reaped (a tombstone, or gone), so it can't be
--   renewed; one that lapsed but was not reaped can.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local reply = string.format('%.6f', now)
local lease = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
if ARGV[3] == 'renew' and (not lease or lease < 0) then return {'lease', reply} end
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {'ok', reply}
