-- renew.lua: the heartbeat: lets leases of one org live on that are live still.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2 ..         slots      zset     leases of calls under way
-- ARGV  1            packed     lease I4 (ms), m leases I2; per lease: set I2 (a place in KEYS), id c16
-- RETURNS packed: per lease 1 renewed I1, or 0: it has expired, or never was
-- COST  1 TIME, 1 GET, per lease 1 ZSCORE and 1 ZADD, per set 1 PTTL and 1 PEXPIRE
-- TTL   a set: two leases, at least 75 s
-- PRE   none
-- MODEL src/calendar/slots.rs; tests/it/leases.rs holds the two together

local lease, count, position = read('<I4I2', ARGV[1])
local renewed, sets = {}, {}
for i = 1, count do
  local k, id
  k, id, position = read('<I2c16', ARGV[1], position)
  local expires_at = redis.pcall('ZSCORE', KEYS[k], id)
  renewed[i] = '\0'
  if expires_at and type(expires_at) ~= 'table' and tonumber(expires_at) > now then
    if not sets[k] then
      -- a Redis out of memory refuses no PEXPIRE, and after a first write no other; another's leases may be longer
      redis.call('PEXPIRE', KEYS[k], format('%.0f', math.max(redis.call('PTTL', KEYS[k]), lease * 2, 75000)))
    end
    renewed[i], sets[k] = '\1', true
    redis.call('ZADD', KEYS[k], format('%.0f', now + lease), id)
  end
end
return table.concat(renewed)
