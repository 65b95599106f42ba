-- open.lua: reservations that no ledger carries and nobody has settled. Reads only.
--
-- KEYS  1            head       string   clock offset of the org
--       2 ..         records    hash     reservations by id, one hash per second in which ids were made
-- ARGV  1            owner      the last four bytes of the ids that are wanted, or nothing: all
-- RETURNS packed: how many of the hashes were read I2, in their order: one at least; then per reservation: id c16, at I6, three amounts I6
-- COST  1 TIME, 1 HGETALL per hash that is read: no more once 1,000 reservations have been
-- TTL   writes nothing
-- PRE   at least one hash
-- MODEL src/store/redis/reply/stored.rs reads it

local owner, OPEN, ENOUGH = ARGV[1], 0, 1000
local parts, hashes, seen = { '' }, 0, 0
while hashes < #KEYS - 1 and seen < ENOUGH do
  hashes = hashes + 1
  local key = KEYS[hashes + 1]
  local fields = redis.call('HGETALL', key)
  seen = seen + #fields / 2
  for i = 1, #fields, 2 do
    local id, record = fields[i], fields[i + 1]
    local stamp, a1, a2, a3 = read('<I6I6I6I6', record)
    if stamp % 4 == OPEN and (owner == '' or string.sub(id, -4) == owner) then
      parts[#parts + 1] = id .. pack('<I6I6I6I6', (stamp - stamp % 4) / 4, a1, a2, a3)
    end
  end
end
parts[1] = pack('<I2', hashes)
return table.concat(parts)
