-- A job's deadline has passed: its webhook announces that, and no result may come after it (after webhook_due.lua).
-- KEYS  1 the job's result   2 webhooks   3 undelivered   4 the job's trace
-- ARGV  1 the job   2 the failure that says so   3 TTL of the trace in seconds
-- Returns nothing. A result that is there already is announced instead.
local time = redis.call('TIME')
redis.call('ZREM', KEYS[2], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
local result = redis.call('GET', KEYS[1]) or 'pending'
if string.sub(result, 1, 7) == 'pending' then
  if redis.call('DEL', KEYS[1]) == 1 then redis.call('SET', KEYS[4], 'deleted', 'EX', ARGV[3]) end
  result = ARGV[2]
end
make_due(KEYS[2], KEYS[3], ARGV[1], result, time[1] + time[2] / 1000000)
