-- Tell when the first jobs of a queue's lists were accepted. Changes nothing.
-- KEYS  1 queue   2 polled   3 turns   4 polled_turns
-- ARGV  1 from which place in the order of turns: 0 for all lanes, -64 for the 64 whose turn comes last
-- Returns Redis' time for each list with a job, as text; '0' where the job does not tell.
local times = {}
local function look(list)
  local job = redis.call('LINDEX', list, 0)
  if not job then return end
  local _, at = string.find(job, '"accepted":', 1, true)
  times[#times + 1] = at and string.match(job, '^[%d.]+', at + 1) or '0'
end
for kind = 1, 2 do
  look(KEYS[kind])
  for _, lane in ipairs(redis.call('ZRANGE', KEYS[kind + 2], ARGV[1], -1)) do
    if lane ~= '' then look(KEYS[kind] .. ':' .. lane) end
  end
end
return times
