-- Tell how long a model's queue is, to one lane that would add a job. Changes nothing.
-- KEYS  1 queue   2 polled   3 turns   4 polled_turns
-- ARGV  1 the lane, or ''
-- Returns {jobs of clients that wait, of clients that poll, lanes with jobs, jobs of this lane's owner,
--   then for each kind how many are taken before one more of this lane: its own, and of each other lane as many as its
--   weight lets it have meanwhile}. '' stands for the jobs of nobody in particular, a lane of weight 100.
local function weight(lane) return math.max(1, tonumber(string.match(lane, '@(%d+)$') or '100')) end
local function owner(lane) return string.match(lane, '^[^@]*') end
local seen, lanes, owned = {}, 0, 0
local function measured(list, turns)
  local lengths = {[''] = redis.call('LLEN', list)}
  for _, lane in ipairs(redis.call('ZRANGE', turns, 0, -1)) do
    if lane ~= '' then lengths[lane] = redis.call('LLEN', list .. ':' .. lane) end
  end
  local total, own = 0, lengths[ARGV[1]] or 0
  local before = own
  for lane, length in pairs(lengths) do
    total = total + length
    if owner(lane) == owner(ARGV[1]) then owned = owned + length end
    if lane ~= '' and length > 0 and not seen[lane] then seen[lane], lanes = true, lanes + 1 end
    local most = math.ceil((own + 1) * weight(lane) / weight(ARGV[1]))
    if lane ~= ARGV[1] then before = before + math.min(length, most) end
  end
  return total, before
end
local waiting, before_waiting = measured(KEYS[1], KEYS[3])
local polled, before_polled = measured(KEYS[2], KEYS[4])
return {waiting, polled, lanes, owned, before_waiting, before_polled}
