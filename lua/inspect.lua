-- inspect.lua: what ledgers hold, as stored. Changes nothing.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2 .. n + 1   ledgers    string   what is charged per scope and window
-- ARGV  1            packed     n ledgers I2, 0 I2, 0 I2, 0 I2, per ledger: window I6 (ms), 0 I1
-- RETURNS packed: now I6; per ledger: size I4, then as many bytes: the value of its key
-- COST  1 TIME, 1 GET, per ledger 1 GET
-- TTL   none is touched
-- PRE   none
-- MODEL src/store/redis/reply.rs reads it

local parts = {}
for k = 2, #KEYS do
  local raw = redis.call('GET', KEYS[k]) or ''
  parts[k] = pack('<I4', #raw) .. raw
end
parts[1] = pack('<I6', now)
return table.concat(parts)
