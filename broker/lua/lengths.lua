-- Tell how long a model's queue is, to one lane that would add a job. Changes nothing.
-- KEYS  1 queue   2 polled   3 turns   4 polled_turns
-- ARGV  1 the lane, or ''
-- Returns {jobs of clients that wait, of clients that poll, lanes with jobs, jobs of this lane's owner,
--   then for each kind how many are taken before one more of this lane: its own, and of each other lane as many as its
--   weight lets it have meanwhile}. '' stands for the jobs of nobody in particular, a lane of weight 100.
local function weight(lane) return math.max(1, string.match(lane, '@(%d+)$') or 100) end
local mine, owner = weight(ARGV[1]), string.match(ARGV[1], '^[^@]*@') or ''
local seen, lanes, owned = {}, 0, 0
local function measured(list, turns)
  local nobody, own = redis.call('LLEN', list), 0
  if ARGV[1] == '' then own = nobody else own = redis.call('LLEN', list .. ':' .. ARGV[1]) end
  local total, before = nobody, ARGV[1] == '' and nobody or math.min(nobody, math.ceil((own + 1) * 100 / mine))
  if owner == '' then owned = owned + nobody end
  for _, lane in ipairs(redis.call('ZRANGE', turns, 0, -1)) do
    local length = lane == '' and 0 or redis.call('LLEN', list .. ':' .. lane)
    if length > 0 then
      total = total + length
      if not seen[lane] then seen[lane], lanes = true, lanes + 1 end
      if owner ~= '' and string.sub(lane, 1, #owner) == owner then owned = owned + length end
      local most = lane == ARGV[1] and length or math.ceil((own + 1) * weight(lane) / mine)
      before = before + math.min(length, most)
    end
  end
  return total, before
end
local waiting, before_waiting = measured(KEYS[1], KEYS[3])
local polled, before_polled = measured(KEYS[2], KEYS[4])
return {waiting, polled, lanes, owned, before_waiting, before_polled}
