-- After an attempt: put a webhook off, or end it.
-- KEYS  1 webhooks   2 callbacks   3 undelivered
-- ARGV  1 the job   2 seconds until it is due again, or '' to end it   3 its callback from now on   4 TTL of keys in seconds
-- Returns 1, or 0 where it has ended already.
local id = ARGV[1]
if not redis.call('ZSCORE', KEYS[1], id) then return 0 end
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
if ARGV[2] ~= '' then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[1], string.format('%.6f', time[1] + time[2] / 1000000 + ARGV[2]), id)
  redis.call('HSET', KEYS[2], id, ARGV[3])
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
  return 1
end
redis.call('ZREM', KEYS[1], id)
redis.call('HDEL', KEYS[2], id)
local size = redis.call('HSTRLEN', KEYS[3], id)
if size > 0 then
  redis.call('HDEL', KEYS[3], id)
  redis.call('HINCRBY', KEYS[3], 'bytes', -size)
  if redis.call('HLEN', KEYS[3]) == 1 then redis.call('DEL', KEYS[3]) end
end
return 1
