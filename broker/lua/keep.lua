-- Keep a job's result for later requests with the same picture, and pass it to those that share the job. It changes no job.
-- KEYS  1 cache     2 cached result   3 request: which job runs for it
-- ARGV  1 digest    2 the job's id    3 its result    4 the channel of the job
--       5 how many bytes it counts for; 0: it is only passed on    6 for how many seconds it is kept
--       7 how many bytes are kept of the model   8 prefix of cached results   9 how many seconds the request's name stays
--       10 'PUBLISH', or 'SPUBLISH' where the channel is sharded
-- Returns 'kept' or 'passed on'. A full Redis keeps nothing, and passes it on.
-- `cache` says of each digest where its result ends in the row of all bytes that were kept: what ends before the last
--   ARGV 7 of them gives way, so the oldest goes first, and what has expired counts until then.
local size, is_kept = tonumber(ARGV[5]), false
if size > 0 then
  local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
  local stop = tonumber(last or '0') + size
  is_kept = type(redis.pcall('ZADD', KEYS[1], stop, ARGV[1])) ~= 'table'
  if is_kept then
    redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[6])
    for _, digest in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', stop - ARGV[7])) do
      redis.call('DEL', ARGV[8] .. digest)
    end
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', stop - ARGV[7])
    redis.call('EXPIRE', KEYS[1], ARGV[6])
  end
end
if redis.call('GET', KEYS[3]) == '- ' .. ARGV[2] then
  -- Those that still decode the same picture find the job by it.
  if is_kept then redis.call('EXPIRE', KEYS[3], ARGV[9]) else redis.call('DEL', KEYS[3]) end
end
redis.call(ARGV[10], ARGV[4], ARGV[3])
return is_kept and 'kept' or 'passed on'
