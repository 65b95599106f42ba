-- lib/read.lua: the clock, the head of the org, and the summary of every ledger. The first part of `acquire`, `settle` and `control`.
--
-- KEYS  1            head       see README.md
--       2 .. n + 1   ledgers
--       then per pool shared fairly 3 keys: see lib/fair/stand.lua; then per set of slots 1: see lib/lease.lua; then records: hashes of reservations that no ledger carries
-- ARGV  1 packed: n ledgers I2, m requests I2, p pools I2, s sets of slots I2, then per ledger: window I6 (ms), home I1 (1: its entries may carry
--       reservations)
-- COST  1 TIME, 1 GET, 1 GETRANGE per ledger
--
-- Plain statements, few tables, no named fields: functions and hashes on this path cost a tenth of a decision each.

local call, try, read, pack, byte, sub, find, rep, format
do
  -- each library is looked up once
  local redis, struct, string = redis, struct, string
  call, try = redis.call, redis.pcall
  read, pack = struct.unpack, struct.pack
  byte, sub, find, rep, format = string.byte, string.sub, string.find, string.rep, string.format
end

-- The two kinds of ledger, by their last byte. A quiet one is [entries that are reservations][trailer]; a log is
-- [reservations from when it was quiet][entries][cold][line][hot]. README.md has the layouts.
local QUIET, LOG = 81, 76
local RECORD, RECORD_SIZE, RECORDS_MAX = '<c16I6I4I4I4', 34, 32
local TRAILER, TRAILER_SIZE, SUMS = '<I6I6I6BI6B', 26, '<I6I6I6B'
local ENTRY, ENTRY_SIZE = '<I6I6I6I6', 24
local COLD, COLD_SIZE = '<I6I6I6I6BI2I2', 29
local LINE, LINE_SIZE = '<I7I7I7I7I7I7I2', 44
local HOT, HOT_SIZE = '<I7I7I7I6I6I6I6I6I6I6I4I6B', 74
local TAIL_SIZE = COLD_SIZE + LINE_SIZE + HOT_SIZE
local HEAD, HEAD_SIZE, VERSION, AFTER_LOSS = '<I6I6I6c8I1B', 28, 1, 2 ^ 47
-- The largest amount; the largest that a record holds; where an entry and a total saturate; the bound of a resource that is not asked for.
local AMOUNT_MAX, NARROW_MAX, ENTRY_MAX, TOTAL_MAX, UNBOUNDED = 2 ^ 47, 2 ^ 32 - 1, 2 ^ 48 - 1, 2 ^ 53, 2 ^ 48 - 1
-- The parts of a window that its grid has, and within which past times are folded; how many past times are not folded; from how many
-- bookings on places keep to the grid.
local PARTS, KEEP, BOOKED_MAX = 64, 32, 128

-- Places in the summary of a log, after its three sums. From PEAK on they mean something only while places are booked, from PAST on only
-- once the entries have been counted: see lib/room.lua.
local NEWEST, CALM, MERGE, LAST, TAIL, RAW, DIRTY, ADDED, EDITS, WALK = 4, 8, 9, 10, 11, 12, 13, 14, 15, 16
local PEAK, AHEAD, AHEAD_FROM, PAST, BOOKED, BASE, KEPT = 17, 20, 23, 24, 25, 26, 27

local keys, args = KEYS, ARGV[1]
local ledgers, requests, pools_asked, slots_asked, position = read('<I2I2I2I2', args)

local time = call('TIME')
local clock = time[1] * 1000 + time[2] / 1000
-- a sum of 41 bits and a fraction: it never rounds up to the next millisecond
clock = clock - clock % 1
local head = call('GET', keys[1])
local offset, head_seen_at, head_expires_at, lost_at, flags = 0, 0, 0, 0, 0
if head then
  local version, _
  if #head == HEAD_SIZE then
    -- a life of the data that began after a loss is born as much later: see acquire.lua
    offset, head_seen_at, head_expires_at, lost_at, _, flags, version = read('<I6I6I6I6I2BB', head)
  end
  if version ~= VERSION then
    return redis.error_reply('ALLOTFORMAT head')
  end
end
-- The offset keeps the org's time from ever going back: see the end of this part.
local now = clock + offset
if now < head_seen_at then
  now = head_seen_at
end

-- Per ledger: the value of a quiet one, as it will be written; or the summary of a log; or that the key holds something else; or nothing
-- if there is none yet. And until when those quiet ones that are to be written must last. A table made with places in it is cheap to fill.
local quiet, logs, changed, broken = { false, false, false, false }, { false, false, false, false }, false, false
local window, longest = { 0, 0, 0, 0 }, 0
for k = 1, ledgers do
  local w, home, next_position = read('<I6B', args, position)
  window[k], position = w, next_position
  if w > longest then
    longest = w
  end
  -- how much of a key shows all of a quiet ledger, and the tail of a log
  local raw = try('GETRANGE', keys[k + 1], home == 1 and '-1114' or '-147', '-1')
  if raw ~= '' then
    -- an error is a table, of length 0
    local size, seen_at = #raw, 0
    local kind = size > 0 and byte(raw, size)
    if kind == QUIET and home == 0 then
      raw = call('GET', keys[k + 1])
      size = #raw
    end
    if kind == QUIET and size >= TRAILER_SIZE and size == byte(raw, size - 7) % 128 * RECORD_SIZE + TRAILER_SIZE then
      quiet[k] = raw
      seen_at = read('<I6', raw, size - 6)
    elseif kind == LOG and size >= TAIL_SIZE then
      local used1, used2, used3, newest_at, newest1, newest2, newest3, calm_until, merge_until, last_at, tail_at, log_seen_at =
        read(HOT, raw, size - HOT_SIZE + 1)
      seen_at = log_seen_at
      if last_at > newest_at then
        local peak1, peak2, peak3, ahead1, ahead2, ahead3, ahead_from = read(LINE, raw, size - HOT_SIZE - LINE_SIZE + 1)
        logs[k] = {
          used1, used2, used3, newest_at, newest1, newest2, newest3, calm_until, merge_until, last_at, tail_at, raw, false,
          false, false, false, peak1, peak2, peak3, ahead1, ahead2, ahead3, ahead_from, false, false, false, false,
        }
      else
        logs[k] = {
          used1, used2, used3, newest_at, newest1, newest2, newest3, calm_until, merge_until, last_at, tail_at, raw, false,
          false, false, false,
        }
      end
    else
      broken = broken or {}
      broken[k] = true
    end
    if seen_at > now then
      now = seen_at
    end
  end
end
-- A clock that stepped back, or a ledger that saw a later time: from here on the org's clock runs from where it was.
local head_offset = offset
offset = now - clock
-- Of lib/fair/stand.lua: pools that users share fairly, by number. Of lib/lease.lua: sets of slots, by number; their keys come after place
-- `slots_from`.
local pools, slots, slots_from = false, false, ledgers + 1
local POOL, POOL_SIZE = '<dI6BI6I6B', 28
if pools_asked > 0 then
  pools, slots_from = { false }, slots_from + 3 * pools_asked
end
local first_request = position
-- Reservations that no ledger carries, by id, as this call leaves them; the place in KEYS of the hash of each, and until when each hash
-- must last.
local recorded, recorded_in, lasts_until
-- The latest place charged by this call; 0 if there is none.
local last_place = 0
-- How many requests are answered; the answers, by parts; whether the time goes before them; whether this is a settle.
local answered, replied, answers, answers_now, settles = 0, 0, { '', '', '', '', '', '' }, false, false
-- Of acquire.lua: what its answer says of the life of the data; the epoch of a life that it marks.
local life, epoch = 0, false
-- Of settle.lua: per quiet ledger the change of one record: its offset, its stamp and amounts, and the sums; or
-- all of them, and nothing, where the record is the last.
local patched
-- Of lib/log.lua, if a script comes to need it: logs in full, by ledger.
local opened, close_log
