-- Take a webhook that is due, for as long as an attempt may last: meanwhile no other process takes it.
-- KEYS  1 webhooks   2 callbacks   3 undelivered
-- ARGV  1 the job   2 seconds for which it is taken   3 TTL of keys in seconds
-- Returns nothing where it is not due (any more); else {its callback or '', when the job ended and its result, or ''}.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local due = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
if not due or due > now then return false end
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
redis.call('ZADD', KEYS[1], string.format('%.6f', now + ARGV[2]), ARGV[1])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[3]) end
return {redis.call('HGET', KEYS[2], ARGV[1]) or '', redis.call('HGET', KEYS[3], ARGV[1]) or ''}
