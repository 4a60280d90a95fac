-- The fourth part of claim.lua, with its KEYS: how many owners have turns, so that one knows of another. Changes nothing.
-- KEYS  2 queue   7 polled   8 turns   9 polled_turns
-- ARGV  none
-- Returns nothing itself. `owners_of` returns 0 where nobody has a lane; it looks at the four lanes of each kind whose turns
--   come first, for an owner has three, a priority each; an emptied one does not count. Nobody is one as well, while another
--   has a lane.
local function owners_of(kinds)
  local seen, owners = {}, 0
  if not (kinds[1].has_lanes or kinds[2].has_lanes) then return owners end
  for _, kind in ipairs(kinds) do
    local lanes = redis.call('ZRANGE', kind.turns, 0, 3)
    if not kind.has_lanes and redis.call('LLEN', kind.list) > 0 then lanes = {''} end
    for _, lane in ipairs(lanes) do
      local owner = string.match(lane, '^[^@]*')
      if not seen[owner] and redis.call('LLEN', list_of(kind, lane)) > 0 then seen[owner], owners = true, owners + 1 end
    end
  end
  return owners
end
