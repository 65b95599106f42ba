-- open.lua: reservations that no ledger carries and nobody has settled. Reads only.
--
-- KEYS  1            head       string   clock offset of the org
--       2 ..         records    hash     reservations by id, one hash per second in which ids were made: a few, as each is read whole
-- ARGV  1            owner      the last four bytes of the ids that are wanted, or nothing: all
-- RETURNS packed: now I6, then per reservation: id c16, at I6, three amounts I6
-- COST  1 TIME, 1 HGETALL per hash
-- TTL   writes nothing
-- PRE   none
-- MODEL src/store/redis/reply.rs reads it

local owner, OPEN = ARGV[1], 0
local parts = { pack('<I6', now) }
for k = 2, #KEYS do
  local fields = redis.call('HGETALL', KEYS[k])
  for i = 1, #fields, 2 do
    local id, record = fields[i], fields[i + 1]
    local stamp, a1, a2, a3 = read('<I6I6I6I6', record)
    if stamp % 4 == OPEN and (owner == '' or string.sub(id, -4) == owner) then
      parts[#parts + 1] = id .. pack('<I6I6I6I6', (stamp - stamp % 4) / 4, a1, a2, a3)
    end
  end
end
return table.concat(parts)
