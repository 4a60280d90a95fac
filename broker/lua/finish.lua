-- Write the result of a pipeline's job, unless it was cancelled (after webhook_due.lua).
-- KEYS  1 its result   2 webhooks   3 undelivered
-- ARGV  1 the result   2 TTL of results in milliseconds   3 the job's channel   4 the job
--       5 'PUBLISH', or 'SPUBLISH' where the channel is sharded
-- Returns 1, or 0 where it was cancelled.
local time = redis.call('TIME')
redis.pcall('ZREM', KEYS[2], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
if not redis.call('SET', KEYS[1], ARGV[1], 'XX', 'PX', ARGV[2]) then return 0 end
redis.call(ARGV[5], ARGV[3], ARGV[1])
make_due(KEYS[2], KEYS[3], ARGV[4], ARGV[1], time[1] + time[2] / 1000000)
return 1
