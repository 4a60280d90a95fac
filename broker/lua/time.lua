-- Tell the time of the node that has a key's slot. Changes nothing.
-- KEYS  1 any key of the slot
-- ARGV  none
-- Returns what TIME does.
return redis.call('TIME')
