-- member.lua: a sign of life of a process that decides by itself while Redis is away: its members share the limits of an org then.
--
-- KEYS  1            head       string   clock offset of the org
--       2            members    zset     processes, by when they no longer count
-- ARGV  1            packed     lease I4 (ms; 0: it leaves), joined_at I6 (when it joined; 0: it does now), id c16
-- RETURNS packed: joined_at I6 (now, if it was no member), members I4, unaware I4 (members without a sign after that)
-- COST  1 TIME, 1 GET, 1 ZSCORE, 1 ZADD or ZREM, 1 ZRANGEBYSCORE, at most 1 ZREM of 1,000 members, 2 ZCOUNT, 1 PTTL, 2 PEXPIRE
-- TTL   two leases, at least 75 s
-- PRE   all members of an org have the same lease
-- MODEL src/store/member.rs; tests/it/members.rs has what it answers

local lease, joined_at, id = read('<I4I6c16', ARGV[1])
local key, PRUNED_MAX = KEYS[2], '1000'
local expires_at = redis.call('ZSCORE', key, id)
if not expires_at or tonumber(expires_at) <= now or joined_at > now then
  joined_at = 0
end
if joined_at == 0 then
  joined_at = now
end
if lease == 0 then
  redis.call('ZREM', key, id)
else
  -- a Redis out of memory refuses no PEXPIRE, and after a first write no other; another's leases may be longer
  local life = format('%.0f', math.max(redis.call('PTTL', key), lease * 2, 75000))
  redis.call('PEXPIRE', key, life)
  redis.call('ZADD', key, format('%.0f', now + lease), id)
  redis.call('PEXPIRE', key, life)
end
local now_text = format('%.0f', now)
local gone = redis.call('ZRANGEBYSCORE', key, '-inf', now_text, 'LIMIT', '0', PRUNED_MAX)
if #gone > 0 then
  redis.call('ZREM', key, unpack(gone))
end
local members = redis.call('ZCOUNT', key, '(' .. now_text, '+inf')
-- its own first sign is one of those; another's of the same millisecond may have come before it
local unaware = redis.call('ZCOUNT', key, '(' .. now_text, format('%.0f', joined_at + lease))
return pack('<I6I4I4', joined_at, members, unaware)
