-- Write the results of a batch and take its jobs off the claims of its worker: all, or nothing (after webhook_due.lua).
-- Results are written even if `dead` or `attempts` is of a wrong type: clients wait for them.
-- KEYS  1 workers   2 claims of this worker   3 attempts   4 dead   5 webhooks   6 undelivered
-- ARGV  1 worker    2 prefix of result keys   3 TTL of results in seconds   4 prefix of channels
--       5 TTL of `dead` in seconds   6 how many entries it keeps   7 'keep', or 'drop': they keep no picture
--       8 'PUBLISH', or 'SPUBLISH' where the channels are sharded; then four for each claimed job, in claim order: its id, the frontend to tell or '',
--       the reason (JSON) if it goes to `dead` or '', its result or '' if it was dropped.
-- Returns 'ok'; 'letters' if it was done, but `dead` could not take its dead letters; 'lease' if the lease is not live; 'claims' if the claims do not begin with this batch.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lease = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if lease <= now then return 'lease' end
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others

local count = (#ARGV - 8) / 4
local first = redis.call('LINDEX', KEYS[2], 0) or ''
local last = count == 1 and first or redis.call('LINDEX', KEYS[2], count - 1) or ''
if string.sub(first, 8, 43) ~= ARGV[9] or string.sub(last, 8, 43) ~= ARGV[#ARGV - 3] then return 'claims' end

local reply = 'ok'
for job = 0, count - 1 do
  local id, frontend, reason, result = unpack(ARGV, 9 + job * 4, 12 + job * 4)
  if reason ~= '' then
    local said, pictures = redis.call('LINDEX', KEYS[2], job), 1
    if ARGV[7] == 'drop' then said, pictures = string.gsub(said, '"image":"[^"]*"', '"image":""') end
    if pictures == 0 then said = '{"id":"' .. id .. '"}' end -- not a job of ours: nothing of it is kept
    if type(redis.pcall('RPUSH', KEYS[4], '{"reason":' .. reason .. ',"job":' .. said .. '}')) == 'table' then reply = 'letters' end
    redis.pcall('LTRIM', KEYS[4], -ARGV[6], -1)
    redis.call('EXPIRE', KEYS[4], ARGV[5])
  end
  -- XX: a client that has gone deleted the key, and nobody wants the result.
  if result ~= '' and redis.call('SET', ARGV[2] .. id, result, 'XX', 'EX', ARGV[3]) then
    -- Without a frontend it is polled: by whoever has subscribed to the job's own channel, if anybody has.
    redis.call(ARGV[8], ARGV[4] .. (frontend ~= '' and frontend or id), result)
    if frontend == '' then make_due(KEYS[5], KEYS[6], id, result, now) end
  end
  redis.pcall('HDEL', KEYS[3], id)
end
redis.call('LTRIM', KEYS[2], count, -1)
return reply
