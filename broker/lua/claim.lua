-- Move up to n jobs from the queue to the claims of one worker that has a live lease.
-- KEYS  1 workers   2 queue   3 claims of this worker   4 attempts   5 bell   6 states
-- ARGV  1 worker    2 n       3 prefix of result keys   4 TTL of keys in seconds   5 its input's tag, or ''
-- Returns {'lease', Redis' time} if the lease is not live; {'others', time} if the first job is left to others;
--   else {'ok', time, for each job, in claim order: its id, its attempts, 1 if its result key is `pending` or else 0; of a lone
--   job itself, too}.
-- A key of a wrong type stops it before it has changed anything.
-- A job with attempts is taken alone, while this worker holds nothing else; one that `others_take` (others.lua,
--   which stands before this text) is left to them, if anybody waits for it.
if not live(ARGV[1]) then return {'lease', string.format('%.6f', now)} end
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
redis.call('HLEN', KEYS[4])
redis.call('LLEN', KEYS[5])

local held, reply, last = redis.call('LLEN', KEYS[3]), {'ok', string.format('%.6f', now)}, nil
for taken = 0, tonumber(ARGV[2]) - 1 do
  local job = redis.call('LMOVE', KEYS[2], KEYS[3], 'LEFT', 'RIGHT')
  if not job then break end
  local id = string.sub(job, 8, 43)
  local attempts = tonumber(redis.call('HGET', KEYS[4], id) or '0')
  local result = redis.call('GET', ARGV[3] .. id)
  local pending = string.sub(result or '', 1, 7) == 'pending' and 1 or 0
  local for_others = pending == 1 and others_take(job)
  if for_others or (attempts > 0 and held + taken > 0) then
    redis.call('LMOVE', KEYS[3], KEYS[2], 'RIGHT', 'LEFT')
    if redis.call('LLEN', KEYS[5]) == 0 then redis.call('RPUSH', KEYS[5], '1') end -- who waits next must find it
    if for_others and taken == 0 then reply[1] = 'others' end
    break
  end
  for _, value in ipairs({id, attempts, pending}) do reply[#reply + 1] = value end
  last = job
  if attempts > 0 then break end
end
-- A job that comes alone saves its worker the LRANGE (0.1 of 0.7 ms); of 8 or more a copy costs more than that.
if #reply == 5 then reply[6] = last end
-- Each job rang: the tokens of those that came along here would only wake workers for nothing.
if redis.call('LLEN', KEYS[2]) == 0 then redis.call('DEL', KEYS[5]) end
for _, key in ipairs({KEYS[2], KEYS[3], KEYS[5]}) do redis.call('EXPIRE', key, ARGV[4]) end
return reply
