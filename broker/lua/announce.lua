-- Publish a worker's state, and the card and the labels of its model. It changes no job.
-- KEYS  1 workers   2 card   3 states   4 labels of the model's version   5 shards
-- ARGV  1 worker    2 the card; '': of a shard only the state is published
--       3 'ready', or '': then the card is set only where there is none
--       4 the state             5 TTL of keys in seconds   6 the labels, or '' to leave them as they are
--       7 into how many shards this worker's setting splits the queue   8 TTL of `shards` in seconds
-- Returns {'ok', or 'no labels' where there are none yet; the largest number of shards that is remembered}.
redis.call('ZREM', KEYS[1], '') -- removes nothing; after a write that needs no memory a full Redis takes the others
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
redis.call('EXPIRE', KEYS[3], ARGV[5])
if ARGV[2] == '' then return {'ok', 1} end
if ARGV[3] == 'ready' or redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SET', KEYS[2], ARGV[2]) end
redis.call('EXPIRE', KEYS[2], ARGV[5])
local own, most = tonumber(ARGV[7]), tonumber(redis.pcall('GET', KEYS[5]) or '1') or 1
if own > 1 and own >= most then redis.call('SET', KEYS[5], own, 'EX', ARGV[8]) end
if ARGV[6] ~= '' then redis.call('SET', KEYS[4], ARGV[6]) end
local has_labels = redis.call('EXPIRE', KEYS[4], ARGV[5]) == 1
return {has_labels and 'ok' or 'no labels', math.max(own, most)}
