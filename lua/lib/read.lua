-- lib/read.lua: the clock, the head of the org, and the summary of every ledger. The first part of `acquire` and `settle`.
--
-- KEYS  1            head       see README.md
--       2 .. n + 1   ledgers
--       n + 2 ..     records    hashes of reservations that no ledger carries
-- ARGV  1 packed: n ledgers I2, m requests I2, then per ledger: window I6 (ms), home I1 (1: its entries may carry reservations)
-- COST  1 TIME, 1 GET, 1 GETRANGE per ledger
--
-- Plain statements and positional tables: functions and named fields on this path cost a tenth of a decision each.

local call, try = redis.call, redis.pcall
local read, pack = struct.unpack, struct.pack
local byte, sub, find, rep, format = string.byte, string.sub, string.find, string.rep, string.format

-- The two kinds of ledger, by their last byte. A quiet one is [entries that are reservations][trailer]; a log is
-- [reservations from when it was quiet][entries][cold][hot]. README.md has the layouts.
local QUIET, LOG, LOG_FROZEN = 81, 76, 70
local RECORD, RECORD_SIZE = '<c16I6I6I6I6', 40
local TRAILER, TRAILER_SIZE = '<I6I6I6I6I6BB', 32
local COLD, COLD_SIZE = '<I6I6I6I6I1I2I2', 29
local HOT, HOT_SIZE = '<I7I7I7I7I7I7I6I6I6I6I6I6I6I6I4B', 95
local HEAD, HEAD_SIZE = '<I6I6I6c8I1B', 28
local HEAD_VERSION = 1
local RECORDS_MAX = 32
-- The largest amount; where an entry and a total saturate; the bound of a resource that is not asked for.
local AMOUNT_MAX, ENTRY_MAX, TOTAL_MAX, UNBOUNDED = 2 ^ 47, 2 ^ 48 - 1, 2 ^ 53, 2 ^ 48 - 1
-- How much of a key shows all of a quiet ledger. LOG_PART, set before this part, shows the tail of a log and its last entries.
local QUIET_PART = '-1312'

-- Places in a summary: three sums, what a quiet ledger and a log both have, COUNT and RESET of a quiet ledger, then those of a log. RAW
-- holds what was read.
local SEEN, CALM, COUNT, KIND, RAW, DIRTY, RESET = 4, 5, 6, 7, 8, 9, 10
local PEAK, NEWEST, MERGE, LAST, TAIL = 10, 13, 17, 18, 19

local args = ARGV[1]
local ledgers, requests, position = read('<I2I2', args)

local time = call('TIME')
local clock = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
local head = call('GET', KEYS[1])
local offset, head_seen_at, head_expires_at, epoch, flags = 0, 0, 0, false, 0
if head then
  local version
  if #head == HEAD_SIZE then
    offset, head_seen_at, head_expires_at, epoch, flags, version = read(HEAD, head)
  end
  if version ~= HEAD_VERSION then
    return redis.error_reply('ALLOTFORMAT head')
  end
end
-- The offset keeps the org's time from ever going back: see the end of this part.
local now = clock + offset
if now < head_seen_at then
  now = head_seen_at
end

-- Per ledger: its summary; nil if there is none yet; false if the key holds something else.
local summary, window, longest = {}, {}, 0
for k = 1, ledgers do
  local home
  window[k], home, position = read('<I6B', args, position)
  if window[k] > longest then
    longest = window[k]
  end
  local key = KEYS[k + 1]
  local raw = try('GETRANGE', key, home == 1 and QUIET_PART or LOG_PART, '-1')
  local size = type(raw) == 'string' and #raw or -1
  local kind = size > 0 and byte(raw, size)
  if kind == QUIET then
    if home == 0 then
      raw = call('GET', key)
      size = #raw
    end
    local used1, used2, used3, seen_at, reset_at, count
    if size >= TRAILER_SIZE then
      used1, used2, used3, seen_at, reset_at, count = read(TRAILER, raw, size - TRAILER_SIZE + 1)
    end
    -- until its first entry leaves the window nothing changes by itself; never so with places booked (128 is added to the count)
    -- or a sum that is saturated
    local calm_until = 0
    if count and count < 128 and count > 0 and used1 < ENTRY_MAX and used2 < ENTRY_MAX and used3 < ENTRY_MAX then
      local stamp = read('<I6', raw, 17)
      calm_until = (stamp - stamp % 4) / 4 + window[k]
    elseif count and count >= 128 then
      count = count - 128
    end
    if count and size == count * RECORD_SIZE + TRAILER_SIZE then
      summary[k] = { used1, used2, used3, seen_at, calm_until, count, kind, raw, false, reset_at }
      if seen_at > now then
        now = seen_at
      end
    else
      summary[k] = false
    end
  elseif (kind == LOG or kind == LOG_FROZEN) and size >= COLD_SIZE + HOT_SIZE then
    local used1, used2, used3, peak1, peak2, peak3, newest_at, newest1, newest2, newest3, seen_at, calm_until, merge_until,
      last_at, tail_at = read(HOT, raw, size - HOT_SIZE + 1)
    summary[k] = {
      used1, used2, used3, seen_at, calm_until, 0, kind, raw, false,
      peak1, peak2, peak3, newest_at, newest1, newest2, newest3, merge_until, last_at, tail_at,
    }
    if seen_at > now then
      now = seen_at
    end
  elseif size ~= 0 then
    summary[k] = false
  end
end
-- A clock that stepped back, or a ledger that saw a later time: from here on the org's clock runs from where it was.
local head_offset = offset
offset = now - clock
local first_request = position
-- Reservations that no ledger carries, by id, as this call leaves them; the place in KEYS of the hash of each, and until when each hash
-- must last.
local recorded, recorded_in, lasts_until
-- The latest place charged by this call; 0 if there is none.
local last_place = 0
-- How many requests are answered; the answers, by parts; whether time and epoch go before them; whether this is a settle.
local answered, replied, answers, answers_epoch, settles = 0, 0, {}, false, false
-- Of lib/log.lua, if a script comes to need it.
local close_log
