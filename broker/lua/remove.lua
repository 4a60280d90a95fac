-- Take away a polled job's key, pending or with its result, and note why: nobody is to take the job for lost.
-- KEYS  1 the job's result   2 its trace
-- ARGV  1 why: 'deleted'   2 TTL of the trace in seconds
-- Returns what the key held, or false: then nothing is noted. A full Redis takes both: the first needs no memory.
local held = redis.call('GETDEL', KEYS[1])
if held then redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2]) end
return held
