-- controls.lua: the controls of an org, and the last entries of its audit trail. Changes nothing.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2            controls   hash     see govern.lua
--       3            audit      stream   see govern.lua
-- ARGV  1            entries    number   of the audit trail, at most 1000; 0: none
-- RETURNS packed: now I6, version I6, n controls I2, per control: when it expires I6 (ms; 0: never), length I4 and text; then m entries I2, per
--       entry, the last first: by five fields (at, by, what, old, new) length I4 and text
-- COST  1 TIME, 1 GET, 1 HGETALL, at most 1 XREVRANGE
-- TTL   none is touched
-- PRE   none
-- MODEL src/store/redis/reply.rs reads it

local sub = string.sub
local most = ARGV[1]
local fields, version, parts = redis.call('HGETALL', KEYS[2]), 0, {}
for i = 1, #fields, 2 do
  local value = fields[i + 1]
  if fields[i] == 'version' then
    version = value + 0
  else
    local expires_at = read('<I6', value)
    if expires_at == 0 or expires_at > now then
      parts[#parts + 1] = pack('<I6I4', expires_at, #value - 6) .. sub(value, 7)
    end
  end
end
local out = { pack('<I6I6I2', now, version, #parts), table.concat(parts) }
local entries = {}
if most ~= '0' then
  entries = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', most)
end
out[3] = pack('<I2', #entries)
for _, entry in ipairs(entries) do
  for i = 2, #entry[2], 2 do
    local value = entry[2][i]
    out[#out + 1] = pack('<I4', #value) .. value
  end
end
return table.concat(out)
