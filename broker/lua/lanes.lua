-- The third part of claim.lua, with its KEYS: whose turn it is among the lanes of a kind of job. Takes none.
-- KEYS  2 queue   7 polled   8 turns   9 polled_turns
-- ARGV  none
-- Returns nothing itself. Start-time fair queueing (Goyal, Vin and Cheng 1996): a lane's score is the virtual time of its
--   next job, which 100 / weight follows. A new one begins at the least of the others', behind who began there before, for
--   equals go by name; an emptied one is forgotten at its turn. '' is nobody's, of weight 100, listed beside others alone.
local function opened(list, turns)
  local kind = {list = list, turns = turns, left = 0, has_lanes = redis.call('ZCARD', turns) > 0}
  if not kind.has_lanes then return kind end
  if redis.call('LLEN', list) > 0 then redis.call('ZADD', turns, 'NX', 0, '') end
  local least = redis.call('ZRANGEBYSCORE', turns, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or '1'
  local new, most = redis.call('ZRANGEBYSCORE', turns, '-inf', 0), least + 0.001
  local last = redis.call('ZRANGE', turns, most, least, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2] or least
  for at, lane in ipairs(new) do redis.call('ZADD', turns, math.min(last + at / 1000000, most), lane) end
  return kind
end
-- The list whose turn it is, its lane and virtual time; without lanes the one list; nil where none is left.
local function next_list(kind)
  if not kind.has_lanes then return kind.list end
  local lane, score = unpack(redis.call('ZRANGE', kind.turns, kind.left, kind.left, 'WITHSCORES'))
  return lane and (lane == '' and kind.list or kind.list .. ':' .. lane), lane, score
end
local function charge(kind, lane, score)
  redis.call('ZADD', kind.turns, score + 100 / math.max(1, string.match(lane, '@(%d+)$') or 100), lane)
end
local function lanes_of(kind) return kind.has_lanes and redis.call('ZCARD', kind.turns) or 0 end
-- Whether another list may have its turn after one of which nothing was taken: eight are left to others at most.
local function passes(kind, lane, why)
  if not lane then return false end
  if why ~= 'empty' then kind.left = kind.left + 1 else redis.call('ZREM', kind.turns, lane) end
  if lanes_of(kind) == 1 and redis.call('ZSCORE', kind.turns, '') then kind.has_lanes = redis.call('DEL', kind.turns) == 0 end
  return kind.left <= 8
end
local function is_empty(kind)
  if redis.call('LLEN', kind.list) > 0 then return false end
  for i = 0, lanes_of(kind) - 1 do
    if redis.call('LLEN', kind.list .. ':' .. redis.call('ZRANGE', kind.turns, i, i)[1]) > 0 then return false end
  end
  return true
end
