-- note.lua: keeps members on a list of who was admitted lately, and takes off who was not. For operators: no decision reads it.
--
-- KEYS  1            list       zset     orgs, or subjects of one org, by when they are taken off
-- ARGV  1            life       ms       how long they stay at least
--       2 ..         members    at most 500
-- RETURNS how many members are new
-- COST  1 TIME, 1 ZADD, 1 ZRANGEBYSCORE, at most 1 ZREM of 1,000 members, 1 PTTL, at most 1 PEXPIRE
-- TTL   the latest time at which one is taken off
-- PRE   none
-- MODEL src/store/memory/roster.rs

local key, life = KEYS[1], ARGV[1] + 0
local time = redis.call('TIME')
local now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
local MEMBERS_MAX, PRUNED_MAX = 500, '1000'
if #ARGV - 1 > MEMBERS_MAX then
  return redis.error_reply('ALLOTFORMAT members')
end
local scored, off_at = {}, string.format('%.0f', now + life)
for i = 2, #ARGV do
  scored[#scored + 1], scored[#scored + 2] = off_at, ARGV[i]
end
-- another process may have noted one for longer
local added = redis.call('ZADD', key, 'GT', unpack(scored))
local gone = redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.0f', now), 'LIMIT', '0', PRUNED_MAX)
if #gone > 0 then
  redis.call('ZREM', key, unpack(gone))
end
if redis.call('PTTL', key) < life then
  redis.call('PEXPIRE', key, string.format('%.0f', life))
end
return added
