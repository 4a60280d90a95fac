-- Take what a request needs of its API key's limits: tokens, and places for its jobs. All of it or nothing.
-- KEYS  1 bucket   2 jobs   3 polled
-- ARGV  1 pictures   2 tokens a second; 0: no limit   3 tokens at most   4 jobs at most; 0: no limit
--       5 seconds until the jobs' deadline   6 the most that any job may have   7 TTL of keys in seconds
--       8 how many jobs `polled` keeps; 0: these are not polled   9 ... a member for each job
-- Returns {'taken', 'rate' or 'jobs', the tokens that are left, the jobs that have not ended}.
-- Redis' clock may step: forward it fills the bucket, back it neither empties it nor holds it up.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local count, rate, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local tokens, pending, verdict = tonumber(ARGV[3]), 0, 'taken'
local stamp = string.format('%.6f', now)
if rate > 0 then
  local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
  if kept[2] then
    tokens = math.min(tokens, kept[1] + math.max(0, now - kept[2]) * rate)
    if tonumber(kept[2]) > now then redis.call('HSET', KEYS[1], 'at', stamp) end
  end
  if tokens < count then verdict = 'rate' end
end
if most > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', stamp)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], string.format('(%.6f', now + ARGV[6]), '+inf')
  pending = redis.call('ZCARD', KEYS[2])
  if verdict == 'taken' and pending + count > most then verdict = 'jobs' end
end
if verdict ~= 'taken' then return {verdict, string.format('%.6f', tokens), pending} end
if rate > 0 then
  tokens = tokens - count
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', stamp)
end
for at = 9, #ARGV do
  if most > 0 then redis.call('ZADD', KEYS[2], string.format('%.6f', now + ARGV[5]), ARGV[at]) end
  if ARGV[8] ~= '0' then redis.call('ZADD', KEYS[3], string.format('%.6f', now + (at - 9) / 1000000), ARGV[at]) end
end
if ARGV[8] ~= '0' then redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - ARGV[8]) end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[7]) end
return {verdict, string.format('%.6f', tokens), pending + (most > 0 and count or 0)}
