-- Give back places of an API key's jobs that have ended, and tokens for pictures that were not taken.
-- KEYS  1 bucket   2 jobs   3 polled
-- ARGV  1 tokens   2 whether the jobs are no longer listed either, '1' or '0'   3 ... the jobs' members
-- Returns how many places became free.
local free = 0
for at = 3, #ARGV do
  free = free + redis.call('ZREM', KEYS[2], ARGV[at])
  if ARGV[2] == '1' then redis.call('ZREM', KEYS[3], ARGV[at]) end
end
-- Not into a bucket that is gone: one is made full. What is beyond its size is cut when it is next looked at.
if ARGV[1] ~= '0' and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HINCRBYFLOAT', KEYS[1], 'tokens', ARGV[1])
end
return free
