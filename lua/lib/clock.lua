-- lib/clock.lua: what time it is for the org. The first part of the scripts that read no ledgers' summaries.
--
-- KEYS  1            head       see README.md
-- COST  1 TIME, 1 GET

local read, pack, format = struct.unpack, struct.pack, string.format
local time = redis.call('TIME')
local now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
local head = redis.call('GET', KEYS[1])
if head and #head >= 12 then
  local offset, seen_at = read('<I6I6', head)
  now = math.max(now + offset, seen_at)
end
