-- inspect.lua: what ledgers, pools and slots of one org hold, all of one moment. Reads only.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2            controls   hash     what operators have decided
--       then         ledgers, states of pools that are shared fairly: strings; then sets of slots: zsets
-- ARGV  1            strings    how many ledgers and states there are
-- RETURNS packed: now I6, version of the controls I6 (0: none), when a loss of data was noticed last I6 (0: none was in this life of them), per ledger and state: length I4 and its bytes (0: there is none), per set of
--       slots: live leases I4, when the first of them expires I6 (0: none)
-- COST  1 TIME, 1 HGET, 1 GET per string, 1 ZCOUNT and 1 ZRANGEBYSCORE per set
-- TTL   writes nothing
-- PRE   none
-- MODEL src/store/redis/reply/stored.rs reads it

local strings = ARGV[1] + 2
local version = redis.call('HGET', KEYS[2], 'version')
-- see acquire.lua
local AFTER_LOSS = 2 ^ 47
local lost_at = head and #head == 28 and read('<I6', head, 19) - AFTER_LOSS or 0
if lost_at > now or now - lost_at >= 2 ^ 32 then
  lost_at = 0
end
local parts = { pack('<I6I6I6', now, version and version + 0 or 0, lost_at) }
for k = 3, strings do
  local raw = redis.call('GET', KEYS[k]) or ''
  parts[k] = pack('<I4', #raw) .. raw
end
parts[2] = ''
for k = strings + 1, #KEYS do
  local key = KEYS[k]
  local live = redis.call('ZCOUNT', key, format('(%.0f', now), '+inf')
  local first = live > 0 and redis.call('ZRANGEBYSCORE', key, format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', '0', '1')
  parts[k] = pack('<I4I6', live, first and first[2] + 0 or 0)
end
return table.concat(parts)
