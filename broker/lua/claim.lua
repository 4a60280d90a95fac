-- Move up to n jobs from the queue's two lists to the claims of one worker that has a live lease (after others.lua and take.lua).
-- KEYS  1 workers   2 queue   3 claims of this worker   4 attempts   5 bell   6 states   7 polled
-- ARGV  1 worker    2 n       3 prefix of result keys   4 TTL of keys in seconds   5 its input's tag, or ''
--       6 how many jobs of `queue` it has taken since its last one of `polled`   7 after how many one of these is due
-- Returns {'lease', Redis' time, ARGV 6} if the lease is not live; {'others', time, ARGV 6} if all that it might take is
--   left to others; else {'ok', time, ARGV 6 of its next claim, for each job, in claim order: its id, its attempts, 1 if
--   its result key is `pending` or else 0; of a lone job itself, too}.
-- A key of a wrong type stops it before it has changed anything.
-- A job with attempts is taken alone, while this worker holds nothing else; one that others take is left to them, with
--   what stands behind it in its list, if anybody waits for it.
local time_text, since = string.format('%.6f', now), tonumber(ARGV[6])
if not live(ARGV[1]) then return {'lease', time_text, since} end
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
redis.call('HLEN', KEYS[4])
for _, list in ipairs({KEYS[2], KEYS[5], KEYS[7]}) do redis.call('LLEN', list) end

local held, reply, taken, last = redis.call('LLEN', KEYS[3]), {'ok', time_text, since}, 0, nil
local waiting, polled, is_left = KEYS[2], KEYS[7], false
while taken < tonumber(ARGV[2]) and (waiting or polled) do
  local list = polled and (since >= tonumber(ARGV[7]) or not waiting) and polled or waiting
  local job, id, attempts, pending = take(list, held + taken > 0)
  if job then
    for _, value in ipairs({id, attempts, pending}) do reply[#reply + 1] = value end
    taken, last, since = taken + 1, job, list == KEYS[7] and 0 or since + 1
    if attempts > 0 then break end
  elseif id == 'alone' then break
  else
    waiting, polled, is_left = list ~= waiting and waiting, list ~= polled and polled, is_left or id == 'others'
  end
end
if is_left and taken == 0 then reply[1] = 'others' end
reply[3] = since
-- A job that comes alone saves its worker the LRANGE (0.1 of 0.7 ms); of 8 or more a copy costs more than that.
if taken == 1 then reply[7] = last end
-- Each job rang: the tokens of those that came along here would only wake workers for nothing.
if redis.call('LLEN', KEYS[2]) + redis.call('LLEN', KEYS[7]) == 0 then redis.call('DEL', KEYS[5]) end
for _, key in ipairs({KEYS[2], KEYS[3], KEYS[5], KEYS[7]}) do redis.call('EXPIRE', key, ARGV[4]) end
return reply
