-- The second part of claim.lua, with its KEYS and ARGV: takes the first job of one list, if there is one, or leaves it there.
-- KEYS  3 claims of this worker   4 attempts   5 bell
-- ARGV  3 prefix of result keys
-- Returns nothing itself. `take` returns a job that it took, its id, its attempts, and 1 if its result key is `pending`
--   or else 0; or nil and why: 'empty', 'others' (they take it, see others.lua), 'alone' (it has attempts, and `is_beside` others).
local function take(list, is_beside)
  local job = list and redis.call('LMOVE', list, KEYS[3], 'LEFT', 'RIGHT')
  if not job then return nil, 'empty' end
  local id = string.sub(job, 8, 43)
  local attempts = tonumber(redis.call('HGET', KEYS[4], id) or '0')
  local result = redis.call('GET', ARGV[3] .. id)
  local pending = string.sub(result or '', 1, 7) == 'pending' and 1 or 0
  local why = pending == 1 and others_take(job) and 'others' or attempts > 0 and is_beside and 'alone'
  if not why then
    if pending == 1 then redis.call('SETRANGE', ARGV[3] .. id, 8, 'c') end
    return job, id, attempts, pending
  end
  redis.call('LMOVE', KEYS[3], list, 'RIGHT', 'LEFT')
  if redis.call('LLEN', KEYS[5]) == 0 then redis.call('RPUSH', KEYS[5], '1') end -- who waits next must find it
  return nil, why
end
