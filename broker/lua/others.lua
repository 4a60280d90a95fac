-- The first part of claim.lua, with its KEYS and ARGV: which jobs it leaves to other workers. Changes nothing.
-- KEYS  1 workers   6 states
-- ARGV  1 worker    5 its input's tag, or ''
-- Returns nothing itself. A job in time is left to a live worker that takes its input, where this worker takes
--   another: not to one that has failed, nor to one that still loads while this one is ready.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function live(worker) return tonumber(redis.call('ZSCORE', KEYS[1], worker) or '0') > now end
local function says(state, text) return string.find(state or '', text, 1, true) end
local function others_take(job)
  local input = string.match(job, '^{"id":"[^"]*","input":"([^"]+)"')
  input = input or string.match(string.match(job, '^{"id":"[^"]*"(.-)"image":"') or '', '"input":"([^"]+)"')
  if not input or ARGV[5] == '' or input == ARGV[5] then return end
  local _, at = says(job, '"deadline":')
  if tonumber(string.match(job, '^[%d.]+', (at or 0) + 1) or '0') <= now then return end
  local is_ready = says(redis.call('HGET', KEYS[6], ARGV[1]), '"state":"ready"')
  local states = redis.call('HGETALL', KEYS[6])
  for i = 2, #states, 2 do
    local is_away = says(states[i], '"state":"failed"') or (is_ready and says(states[i], '"state":"loading"'))
    if says(states[i], '"input":"' .. input .. '"') and not is_away and live(states[i - 1]) then return true end
  end
end
