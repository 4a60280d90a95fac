-- The third part of claim.lua, with its KEYS: whose turn it is among the lanes of a kind of job. Takes none.
-- KEYS  2 queue   7 polled   8 turns   9 polled_turns
-- ARGV  none
-- Returns nothing itself. Start-time fair queueing (Goyal, Vin and Cheng 1996): a lane's score is the virtual time of its
--   next job, which 100 / weight follows. New ones, from 0 to 0.5, are next, those of one claim by name, and charged from the least of the
--   others'; an emptied one is forgotten at its turn. '' is nobody's, of weight 100, listed beside others alone.
local function opened(list, turns)
  local kind = {list = list, turns = turns, left = 0, has_lanes = redis.call('ZCARD', turns) > 0}
  if not kind.has_lanes then return kind end
  if redis.call('LLEN', list) > 0 then redis.call('ZADD', turns, 'NX', 0, '') end
  kind.least = redis.call('ZRANGEBYSCORE', turns, '(0.5', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or 1
  local last = redis.call('ZRANGE', turns, 0.5, '(0', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2] or 0
  for at, lane in ipairs(redis.call('ZRANGEBYSCORE', turns, '-inf', 0)) do redis.call('ZADD', turns, math.min(last + at / 1000000, 0.5), lane) end
  return kind
end
local function list_of(kind, lane) return lane == '' and kind.list or kind.list .. ':' .. lane end
-- The list whose turn it is, its lane and virtual time; without lanes the one list; nil where none is left.
local function next_list(kind)
  if not kind.has_lanes then return kind.list end
  local lane, score = unpack(redis.call('ZRANGE', kind.turns, kind.left, kind.left, 'WITHSCORES'))
  return lane and list_of(kind, lane), lane, score
end
local function charge(kind, lane, score)
  local weight = tonumber(string.match(lane, '@(%d+)$') or 100)
  redis.call('ZADD', kind.turns, (score + 0 > 0.5 and score or kind.least + score) + 100 / math.max(1, weight), lane)
end
-- Whether another list may have its turn after one of which nothing was taken: eight are left to others at most.
local function passes(kind, lane, why)
  if not lane then return false end
  if why ~= 'empty' then kind.left = kind.left + 1 else redis.call('ZREM', kind.turns, lane) end
  kind.has_lanes = not (redis.call('ZCARD', kind.turns) == 1 and redis.call('ZSCORE', kind.turns, '') and redis.call('DEL', kind.turns))
  return kind.left <= 8
end
local function is_empty(kind)
  if redis.call('LLEN', kind.list) > 0 then return false end
  for i = 0, redis.call('ZCARD', kind.turns) - 1 do
    if redis.call('LLEN', list_of(kind, redis.call('ZRANGE', kind.turns, i, i)[1])) > 0 then return false end
  end
  return true
end
