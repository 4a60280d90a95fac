-- Publish a worker's state, and the card and the labels of its model. It changes no job.
-- KEYS  1 workers   2 card   3 states   4 labels of the model's version
-- ARGV  1 worker    2 the card   3 'ready', or '': then the card is set only where there is none
--       4 the state             5 TTL of keys in seconds   6 the labels, or '' to leave them as they are
-- Returns 'ok', or 'no labels' where there are none yet.
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
if ARGV[3] == 'ready' or redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SET', KEYS[2], ARGV[2]) end
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
redis.call('EXPIRE', KEYS[3], ARGV[5])
if ARGV[6] ~= '' then redis.call('SET', KEYS[4], ARGV[6]) end
if redis.call('EXPIRE', KEYS[4], ARGV[5]) == 0 then return 'no labels' end
return 'ok'
