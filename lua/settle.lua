-- settle.lua: ends reservations of one org, each once: a commit changes its charge to what was used, a release gives it back.
--
-- KEYS  as acquire.lua
-- ARGV  1            packed     n ledgers I2, m requests I2
--                               per ledger: window I6 (ms), home I1
--                               per request: id c16, ending I1 (1 commit, 2 release), made_at I6 (ms; 0: unknown), home I2, records I2,
--                               ledgers charged I1; then per ledger charged: ledger I2, three estimates I6, three actual amounts I6
-- RETURNS packed: per request: code I1
--       code 1 settled, 2 was settled before, 3 unknown (a release leaves a tombstone), 5 a key holds something else,
--       6 an amount out of range; 2, 5 and 6 change nothing
-- COST  1 TIME, 1 GET, per ledger 1 GETRANGE and at most 1 GET and 1 write
-- TTL   every key: its last time + 1.25 windows, at least 75 s
-- PRE   the estimates are those of the acquire
-- MODEL src/store/memory.rs; tests/it/model.rs holds the two together

local REQUEST, REQUEST_SIZE = '<c16BI6I2I2B', 28
local CHARGE, CHARGE_SIZE = '<I2I6I6I6I6I6I6', 38
local SETTLED, BEFORE, UNKNOWN, CORRUPT, OUT_OF_RANGE = 1, 2, 3, 5, 6
local COMMIT = 1

settles = true

-- The usual settlements, in order, by summaries alone: the reservation is in a quiet ledger, its place has come, and of the other ledgers
-- at most one changes, in its last entries. The first that is otherwise ends this part. No functions: see lib/read.lua.
while answered < requests do
  local id, ending, made_at, home, records_key, count = read(REQUEST, args, position)
  local from = position + REQUEST_SIZE
  local till = from + count * CHARGE_SIZE - 1
  local s = home > 0 and summary[home]
  if not s or s[KIND] ~= QUIET or now >= s[CALM] then
    break
  end
  local x = find(s[RAW], id, 1, true)
  if not x or x % RECORD_SIZE ~= 1 or x > s[COUNT] * RECORD_SIZE then
    break
  end
  local _, stamp, h1, h2, h3 = read(RECORD, s[RAW], x)
  local at = stamp / 4
  if stamp % 4 ~= 0 or at > now or at <= s[RESET] or h1 + h2 + h3 == 0 then
    break
  end
  made_at = made_at > 0 and made_at or at
  local usual, n1, n2, n3, other, d1, d2, d3 = true, 0, 0, 0, nil, 0, 0, 0
  for c = from, till, CHARGE_SIZE do
    local k, e1, e2, e3, a1, a2, a3 = read(CHARGE, args, c)
    if a1 > AMOUNT_MAX or a2 > AMOUNT_MAX or a3 > AMOUNT_MAX then
      usual = false
    elseif k == home then
      n1, n2, n3 = a1, a2, a3
      usual = usual and s[1] + a1 <= ENTRY_MAX and s[2] + a2 <= ENTRY_MAX and s[3] + a3 <= ENTRY_MAX
    elseif (e1 ~= a1 or e2 ~= a2 or e3 ~= a3) and at + window[k] > now then
      local log = summary[k]
      usual = usual and not other and log and log[KIND] == LOG and e1 + e2 + e3 > 0 and now < log[CALM] and log[LAST] == log[NEWEST]
        and not log.appended
      other, d1, d2, d3 = log, a1 - e1, a2 - e2, a3 - e3
    end
  end
  if not usual then
    break
  end
  if other then
    local raw = other[RAW]
    local cold = #raw - COLD_SIZE - HOT_SIZE + 1
    local reset_at, born_at, _, _, _, past = read(COLD, raw, cold)
    if at > reset_at and made_at >= born_at then
      -- the first entry at or after the place: the newest, which the tail holds, or one of those before it
      local slot, first, held = cold - 48, cold - past * 24, nil
      while slot >= first and slot >= 1 and read('<I6', raw, slot) >= at do
        held, slot = slot, slot - 24
      end
      local t, g1, g2, g3 = 0, other[NEWEST + 1], other[NEWEST + 2], other[NEWEST + 3]
      if held then
        t, g1, g2, g3 = read('<I6I6I6I6', raw, held)
      end
      g1, g2, g3 = g1 + d1, g2 + d2, g3 + d3
      if slot >= first and slot < 1 or other[NEWEST] < at or g1 < 0 or g2 < 0 or g3 < 0 or g1 + g2 + g3 == 0
        or g1 > ENTRY_MAX or g2 > ENTRY_MAX or g3 > ENTRY_MAX then
        break
      end
      if held then
        local entry = pack('<I6I6I6I6', t, g1, g2, g3)
        other[RAW] = sub(raw, 1, held - 1) .. entry .. sub(raw, held + 24)
        other.edits = other.edits or {}
        other.edits[#other.edits + 1] = other[TAIL] - (cold - held)
        other.edits[#other.edits + 1] = entry
      else
        other[NEWEST + 1], other[NEWEST + 2], other[NEWEST + 3] = g1, g2, g3
      end
      other[1], other[2], other[3], other[SEEN], other[DIRTY] = other[1] + d1, other[2] + d2, other[3] + d3, now, true
      -- without bookings there is no peak
      other[PEAK], other[PEAK + 1], other[PEAK + 2] = 0, 0, 0
    end
  end
  s[1], s[2], s[3], s[SEEN], s[DIRTY] = s[1] + n1 - h1, s[2] + n2 - h2, s[3] + n3 - h3, now, true
  s[RAW] = sub(s[RAW], 1, x + 15) .. pack('<I6I6I6I6', stamp + ending, n1, n2, n3) .. sub(s[RAW], x + RECORD_SIZE)
  answered, position = answered + 1, till + 1
  answers[answered] = '\1'
end
