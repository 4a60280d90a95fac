-- Move up to n jobs from the queue to the claims of one worker that has a live lease (after others.lua, take.lua, lanes.lua and owners.lua).
-- KEYS  1 workers   2 queue   3 claims of this worker   4 attempts   5 bell   6 states   7 polled   8, 9 their turns
-- ARGV  1 worker    2 n, while several owners have turns ARGV 9   3 prefix of result keys   4 TTL of keys in seconds   5 its input's tag, or ''
--       6 how many jobs of `queue` it has taken since its last one of `polled`   7 after how many one of these is due   8 1 if it has jobs of other shards, or 0
-- Returns {'lease', Redis' time, ARGV 6, 0} if the lease is not live; {'others', time, ARGV 6, how many owners have turns} if
--   all that it might take is left to others, {'alone', the same} if to itself once it holds nothing; else {'ok', time, ARGV 6 of
--   its next claim, owners, for each job, in claim order: id, attempts, 1 if its result key is `pending` or else 0; of one job itself}.
-- A key of a wrong type stops it before it has moved a job. A job with attempts is taken alone, while this worker holds
--   nothing else; one that others take is left to them, with what stands behind it in its list, if anybody waits for it.
local time_text, since = string.format('%.6f', now), tonumber(ARGV[6])
if not live(ARGV[1]) then return {'lease', time_text, since, 0} end
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
redis.call('HLEN', KEYS[4])
for _, list in ipairs({KEYS[2], KEYS[5], KEYS[7]}) do redis.call('LLEN', list) end

local both, is_left = {opened(KEYS[2], KEYS[8]), opened(KEYS[7], KEYS[9])}, false
local reply, taken, last = {'ok', time_text, since, owners_of(both)}, 0, nil
local held, n = redis.call('LLEN', KEYS[3]) + ARGV[8], tonumber(reply[4] > 1 and ARGV[9] or ARGV[2])
local waiting, polled = unpack(both)
while taken < n and (waiting or polled) do
  local kind = polled and (since >= tonumber(ARGV[7]) or not waiting) and polled or waiting
  local list, lane, score = next_list(kind)
  local job, id, attempts, pending = take(list, held + taken > 0)
  if job then
    for _, value in ipairs({id, attempts, pending}) do reply[#reply + 1] = value end
    taken, last, since = taken + 1, job, kind == both[2] and 0 or since + 1
    if lane then charge(kind, lane, score) end
    if attempts > 0 then break end
  elseif id == 'alone' then reply[1] = taken == 0 and id or 'ok' break
  elseif not passes(kind, lane, id) then waiting, polled = kind ~= waiting and waiting, kind ~= polled and polled end
  is_left = is_left or id == 'others'
end
if is_left and taken == 0 and reply[1] == 'ok' then reply[1] = 'others' end
reply[3] = since
-- A job that comes alone saves its worker the LRANGE (0.1 of 0.7 ms); of 8 or more a copy costs more than that.
if taken == 1 then reply[8] = last end
-- Each job rang: the tokens of those that came along here would only wake workers for nothing.
if is_empty(both[1]) and is_empty(both[2]) then redis.call('DEL', KEYS[5]) end
for _, key in ipairs({KEYS[2], KEYS[3], KEYS[5], KEYS[7]}) do redis.call('EXPIRE', key, ARGV[4]) end
return reply
