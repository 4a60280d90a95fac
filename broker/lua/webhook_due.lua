-- The first part of complete.lua, finish.lua and webhook_expire.lua: a job has ended, so its webhook is due now.
-- KEYS  none of its own
-- ARGV  none of its own
-- Returns nothing itself. `make_due` keeps the result for the webhook, whose first one counts; nothing for a job
--   without a webhook, nor where a key is of a wrong type.
local function make_due(webhooks, undelivered, id, result, now)
  if type(redis.pcall('ZSCORE', webhooks, id)) ~= 'string' then return end
  local time = string.format('%.6f', now)
  local kept = time .. ' ' .. result
  redis.call('ZADD', webhooks, time, id)
  if redis.pcall('HSETNX', undelivered, id, kept) ~= 1 then return end
  redis.call('HINCRBY', undelivered, 'bytes', #kept)
  redis.call('EXPIRE', undelivered, redis.call('TTL', webhooks))
end
