-- The first part of recover.lua, with its KEYS and ARGV: takes a job at the head of `queue` to that of its own list.
-- KEYS  2 queue   7 polled   8 turns   9 polled_turns
-- ARGV  3 TTL of keys in seconds   5 prefix of result keys
-- Returns nothing itself. A lane gets the turn back that the job has cost it, if that is still remembered.
local function take_home(job)
  local is_polled = string.sub(job, 45, 58) == ',"polled":true'
  local result = ARGV[5] .. string.sub(job, 8, 43)
  if string.sub(redis.call('GET', result) or '', 1, 9) == 'pending c' then
    redis.call('SETRANGE', result, 8, is_polled and 'p' or 'q')
  end
  local list, turns = is_polled and KEYS[7] or KEYS[2], is_polled and KEYS[9] or KEYS[8]
  local lane = string.match(job, '^,"lane":"([^"]+)"', is_polled and 59 or 45)
  local home = lane and list .. ':' .. lane or list
  if home ~= KEYS[2] then redis.call('LMOVE', KEYS[2], home, 'LEFT', 'LEFT') end
  local weight = tonumber(string.match(lane or '', '@(%d+)$') or '100')
  redis.call('ZADD', turns, 'XX', 'INCR', -100 / math.max(1, weight), lane or '')
  if not lane then return end
  redis.call('ZADD', turns, 'NX', 0, lane)
  for _, key in ipairs({home, turns}) do redis.call('EXPIRE', key, ARGV[3]) end
end
