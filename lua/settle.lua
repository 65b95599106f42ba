-- settle.lua: ends reservations of one org, each once: a commit changes its charge to what was used, a release gives it back.
--
-- KEYS  as acquire.lua, without pools
-- ARGV  1            packed     n ledgers I2, m requests I2, 0 I2, s sets of slots I2
--                               per ledger: window I6 (ms), home I1
--                               per request: id c16, ending I1 (1 commit, 2 release, 3 free the slots only), made_at I6 (ms; 0: unknown),
--                               home I2, ledgers charged I1, sets I1, checked I1 (1: nothing changes if a lease has expired), records
--                               I2; then per ledger charged: ledger I2, three estimates I6, three actual amounts I6; then per set:
--                               set I2
-- RETURNS packed: per request: code I1
--       code 1 settled, 2 was settled before, 3 unknown (a release leaves a tombstone), 5 a key holds something else,
--       6 an amount out of range, 7 a lease has expired; 2, 5, 6 and 7 change nothing
-- COST  1 TIME, 1 GET, 1 PEXPIRE, per ledger 1 GETRANGE and 1 write, 2 for a record that is not the last; per log that changes 1 or 2
--       GETRANGE; as much again for what no summary can answer
-- TTL   every key: see lib/write.lua
-- PRE   the estimates are those of the acquire
-- MODEL src/store/memory.rs; tests/it/model.rs holds the two together

local REQUEST, REQUEST_SIZE = '<c16BI6I2BBB', 30
local CHARGE, CHARGE_SIZE = '<I2I6I6I6I6I6I6', 38
local SETTLED, BEFORE, UNKNOWN, CORRUPT, OUT_OF_RANGE, LOST = 1, 2, 3, 5, 6, 7
local COMMIT, FREE = 1, 3

settles = true

-- Entries of one log as last read, by their numbers.
local block, block_of, block_from, block_to = '', 0, 0, 0

-- The usual settlements, in order: the reservation is in a quiet ledger, its place has come, and in the logs it was charged to there is an
-- entry that holds it and stays. The first that is otherwise ends this part. No functions: see lib/read.lua.
while answered < requests do
  local id, ending, made_at, home, count, sets, checked = read(REQUEST, args, position)
  local from = position + REQUEST_SIZE
  local till = from + count * CHARGE_SIZE - 1
  if ending == FREE then
    break
  end
  local raw = quiet[home]
  local x = raw and find(raw, id, 1, true)
  if not x or patched and patched[home] or x % RECORD_SIZE ~= 1 or x > #raw - TRAILER_SIZE then
    break
  end
  local stamp, h1, h2, h3 = read('<I6I4I4I4', raw, x + 16)
  local used1, used2, used3, held = read(SUMS, raw, #raw - TRAILER_SIZE + 1)
  local at = stamp / 4
  -- all of its records are in the window, and none is a booking
  if stamp % 4 ~= 0 or h1 + h2 + h3 == 0 or held > RECORDS_MAX or read('<I6', raw, 17) < (now - window[home] + 1) * 4 then
    break
  end
  made_at = made_at > 0 and made_at or at
  local usual, n1, n2, n3 = true, 0, 0, 0
  for c = from, till, CHARGE_SIZE do
    local k, e1, e2, e3, a1, a2, a3 = read(CHARGE, args, c)
    local s, w = logs[k], window[k]
    if a1 > AMOUNT_MAX or a2 > AMOUNT_MAX or a3 > AMOUNT_MAX or broken and broken[k] then
      usual = false
    elseif k == home then
      n1, n2, n3 = a1, a2, a3
      usual = usual and n1 <= NARROW_MAX and n2 <= NARROW_MAX and n3 <= NARROW_MAX
    elseif (e1 ~= a1 or e2 ~= a2 or e3 ~= a3) and at + w > now then
      if not usual or not s or now >= s[CALM] or e1 + e2 + e3 == 0 or s[NEWEST] < at then
        usual = false
        break
      end
      local reset_at, born_at, _, _, frozen, past, booked = read(COLD, s[RAW], #s[RAW] - TAIL_SIZE + 1)
      if at > reset_at and made_at >= born_at then
        -- The first entry at or after the place. It is the newest, if the one before that is older: MERGE tells of a folded log. Else it is
        -- searched, from a guess: busy orgs have their entries at even distances.
        local i = past
        local folded = past >= KEEP and s[MERGE] > 0
        if past > 1 and not (folded and at > s[MERGE] - math.ceil(w / PARTS)) then
          if block_of ~= k or read('<I6', block, 1) >= at or read('<I6', block, #block - 23) < at and block_to < past - 1 then
            i = past - math.floor((s[NEWEST] - at) / (s[NEWEST] - now + w) * past)
            local step = 0
            repeat
              block_from = math.max(1, math.min(i - 4, past - 8) + step)
              block_to = math.min(block_from + 7, past - 1)
              block = call('GETRANGE', keys[k + 1], format('%d', frozen * RECORD_SIZE + block_from * 24 - 24),
                format('%d', frozen * RECORD_SIZE + block_to * 24 - 1))
              if read('<I6', block, 1) >= at and block_from > 1 then
                step = step - 7
              elseif read('<I6', block, #block - 23) < at and block_to < past - 1 then
                step = step + 7
              else
                step = false
              end
            until not step
            block_of = k
          end
          i = block_from
          while i <= block_to and read('<I6', block, (i - block_from) * 24 + 1) < at do
            i = i + 1
          end
        end
        local t, g1, g2, g3 = s[NEWEST], s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3]
        if i < past then
          t, g1, g2, g3 = read(ENTRY, block, (i - block_from) * 24 + 1)
          local e = s[EDITS] and s[EDITS][i]
          if e then
            g1, g2, g3 = e[2], e[3], e[4]
          end
        end
        g1, g2, g3 = g1 + a1 - e1, g2 + a2 - e2, g3 + a3 - e3
        usual = g1 >= 0 and g2 >= 0 and g3 >= 0 and g1 + g2 + g3 > 0 and g1 <= ENTRY_MAX and g2 <= ENTRY_MAX and g3 <= ENTRY_MAX
          and s[1] + a1 <= ENTRY_MAX and s[2] + a2 <= ENTRY_MAX and s[3] + a3 <= ENTRY_MAX
        if s[LAST] > s[NEWEST] then
          usual = usual and s[PEAK] + a1 <= ENTRY_MAX and s[PEAK + 1] + a2 <= ENTRY_MAX and s[PEAK + 2] + a3 <= ENTRY_MAX
            and s[AHEAD] + a1 <= ENTRY_MAX and s[AHEAD + 1] + a2 <= ENTRY_MAX and s[AHEAD + 2] + a3 <= ENTRY_MAX
        end
        s[WALK] = { i < past and i, t, g1, g2, g3, frozen * RECORD_SIZE, a1 - e1, a2 - e2, a3 - e3 }
      end
    end
  end
  if not usual or sets > 0 and free_slots(id, till + 1, sets, checked == 1) ~= 0 then
    break
  end
  for c = from, till, CHARGE_SIZE do
    local k = read('<I2', args, c)
    local s = logs[k]
    local found = s and s[WALK]
    if found then
      local d1, d2, d3 = found[7], found[8], found[9]
      s[WALK] = false
      if found[1] then
        s[EDITS] = s[EDITS] or {}
        s[EDITS][found[1]] = { found[2], found[3], found[4], found[5] }
        s[BASE] = found[6]
      else
        s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3] = found[3], found[4], found[5]
      end
      s[1], s[2], s[3], s[DIRTY] = s[1] + d1, s[2] + d2, s[3] + d3, true
      if s[LAST] > s[NEWEST] then
        -- what the fullest window at a booking holds at most
        s[PEAK], s[PEAK + 1], s[PEAK + 2] = s[PEAK] + math.max(d1, 0), s[PEAK + 1] + math.max(d2, 0), s[PEAK + 2] + math.max(d3, 0)
        if found[2] > s[LAST] - window[k] then
          s[AHEAD], s[AHEAD + 1], s[AHEAD + 2] = s[AHEAD] + d1, s[AHEAD + 1] + d2, s[AHEAD + 2] + d3
        end
      end
    end
  end
  local record = pack('<I6I4I4I4', stamp + ending, n1, n2, n3)
  local sums = pack('<I6I6I6', used1 + n1 - h1, used2 + n2 - h2, used3 + n3 - h3)
  patched = patched or {}
  if x + RECORD_SIZE + TRAILER_SIZE == #raw + 1 then
    -- the sums come right after the last record
    patched[home] = { x + 15, record .. sums, '' }
  else
    patched[home] = { x + 15, record, sums }
  end
  answered, position = answered + 1, till + 1 + sets * 2
  answers[answered] = '\1'
end
