-- acquire.lua: charges requests of one org, each on all of its ledgers or on none, or says when they would fit.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2 .. n + 1   ledgers    string   what is charged per scope and window
--       n + 2 ..     records    hash     reservations that no ledger carries, by id
-- ARGV  1            packed     n ledgers I2, m requests I2
--                               per ledger: window I6 (ms, 1000 to 31 days), home I1 (1: its entries may carry reservations)
--                               per request: id c16, moves_up I1, max_wait I6 (ms; 0: now or nothing), home I2 (a ledger; 0: none),
--                               records I2 (a place in KEYS), ledgers asked I1; then per ledger asked: ledger I2, three amounts I6,
--                               three bounds I6 (what a window may already hold; 2^48 - 1: any), horizon I6 (ms)
-- RETURNS packed: now I6, epoch c8; per request: code I1, at I6, setter I1 (a place among the ledgers asked, from 1; 0: none);
--       then per ledger asked: short I1 (resources that do not fit 1 ms before `at`: 1, 2, 4 added up), three sums in the window I7, last I6
--       code 1 charged at `at` (now; later: a booking; earlier: the id was known), 2 denied (it fits at `at`), 3 released before,
--       4 the id has another cost, 5 a key holds something else, 6 an amount out of range; 3 to 6 change nothing
-- COST  1 TIME, 1 GET, per ledger 1 GETRANGE and 1 write; as much again for what no summary can answer
-- TTL   every key: its last time + 1.25 windows, at least 75 s
-- PRE   cost <= limit (the caller says `never` without asking)
-- MODEL src/store/memory.rs; tests/it/model.rs holds the two together

local REQUEST, REQUEST_SIZE = '<c16BI6I2I2B', 28
local ASK, ASK_SIZE = '<I2I6I6I6I6I6I6I6', 44
local ASK_SUMMARY = '<I2I6I6I6I6I6I6'
local ADMITTED, DENIED, RELEASED, MISMATCH, CORRUPT, OUT_OF_RANGE = 1, 2, 3, 4, 5, 6

answers_epoch = true

-- The usual requests, in order, by summaries alone; the first that they cannot answer ends this part. No functions: see lib/read.lua.
while answered < requests do
  local id, moves_up, max_wait, home, records_key, count = read(REQUEST, args, position)
  local from = position + REQUEST_SIZE
  local till = from + count * ASK_SIZE - 1
  -- Can the summaries answer? Whether it fits is looked at later: a denial may need no more than them either.
  local usual, fits, carried, denied_only = moves_up == 0, true, false, false
  for at = from, till, ASK_SIZE do
    local k, a1, a2, a3, b1, b2, b3 = read(ASK_SUMMARY, args, at)
    local s = summary[k]
    local kind = s and s[KIND]
    if a1 > AMOUNT_MAX or a2 > AMOUNT_MAX or a3 > AMOUNT_MAX then
      usual = false
    elseif kind == QUIET then
      if now >= s[CALM] and s[CALM] > 0 then
        -- entries that have left the window go
        local raw, left, w = s[RAW], s[COUNT], window[k]
        local x = 1
        while left > 0 do
          local _, stamp, c1, c2, c3 = read(RECORD, raw, x)
          local leaves_at = (stamp - stamp % 4) / 4 + w
          if leaves_at > now then
            s[CALM] = leaves_at
            break
          end
          s[1], s[2], s[3] = s[1] - c1, s[2] - c2, s[3] - c3
          left, x = left - 1, x + RECORD_SIZE
        end
        s[RAW], s[COUNT] = sub(raw, x), left
        if left == 0 then
          s[CALM] = now + w
        end
      end
      carried = true
      usual = usual and home == k and now < s[CALM] and s[COUNT] < RECORDS_MAX and a1 + a2 + a3 > 0 and not find(s[RAW], id, 1, true)
      usual = usual and s[1] + a1 <= ENTRY_MAX and s[2] + a2 <= ENTRY_MAX and s[3] + a3 <= ENTRY_MAX
      fits = fits and s[1] <= b1 and s[2] <= b2 and s[3] <= b3
    elseif kind == LOG then
      if s[LAST] + window[k] <= now then
        -- all of it has left the window: enough to deny by another ledger, but not to charge this one
        s[1], s[2], s[3], s[PEAK], s[PEAK + 1], s[PEAK + 2] = 0, 0, 0, 0, 0, 0
        denied_only = true
      else
        usual = usual and now < s[CALM]
      end
      if s[1] > b1 or s[2] > b2 or s[3] > b3 or s[PEAK] > b1 or s[PEAK + 1] > b2 or s[PEAK + 2] > b3 then
        fits = false
        -- a walk over the past is not enough where places are booked
        usual = usual and s[LAST] <= s[NEWEST] and not s.appended
      elseif s[1] + a1 > ENTRY_MAX or s[2] + a2 > ENTRY_MAX or s[3] + a3 > ENTRY_MAX then
        usual = false
      elseif now >= s[MERGE] and not denied_only then
        -- a short log without bookings takes one more time at its end: up to 32 times nothing is folded
        local past = read('<I2', s[RAW], #s[RAW] - COLD_SIZE - HOT_SIZE + 26)
        usual = usual and past > 0 and past < 32 and s[LAST] == s[NEWEST] and not s.appended
      end
    elseif s == nil and home == k and a1 + a2 + a3 > 0 then
      carried = true
    else
      usual = false
    end
    if not usual then
      break
    end
  end
  if not usual or not fits and max_wait > 0 or fits and denied_only then
    break
  end
  if not carried then
    if recorded and recorded[id] or try('HGET', KEYS[records_key], id) then
      break
    end
  end
  replied, answered, position = replied + 1, answered + 1, till + 1
  if fits then
    answers[replied] = pack('<BI6B', ADMITTED, now, 0)
    for at = from, till, ASK_SIZE do
      local k, a1, a2, a3 = read('<I2I6I6I6', args, at)
      local s = summary[k]
      if not s then
        s = { 0, 0, 0, now, now + window[k], 0, QUIET, '', true, 0 }
        summary[k] = s
      end
      replied = replied + 1
      if s[KIND] == QUIET then
        s[RAW] = sub(s[RAW], 1, s[COUNT] * RECORD_SIZE) .. pack(RECORD, id, now * 4, a1, a2, a3)
        s[1], s[2], s[3], s[SEEN], s[COUNT], s[DIRTY] = s[1] + a1, s[2] + a2, s[3] + a3, now, s[COUNT] + 1, true
        answers[replied] = pack('<BI7I7I7I6', 0, s[1], s[2], s[3], now)
      else
        if a1 + a2 + a3 > 0 then
          if now >= s[MERGE] then
            -- the entry so far the newest moves into its place; what the newest is, only the tail knows
            local raw = s[RAW]
            local cold = #raw - COLD_SIZE - HOT_SIZE + 1
            local reset_at, born_at, expires_at, frozen_until, frozen, past, booked = read(COLD, raw, cold)
            local moved = pack('<I6I6I6I6', s[NEWEST], s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3])
            s.appended = moved .. moved .. pack(COLD, reset_at, born_at, expires_at, frozen_until, frozen, past + 1, booked)
            s[RAW] = sub(raw, 1, cold - 25) .. s.appended .. sub(raw, -HOT_SIZE)
            s[TAIL], s[LAST], s[MERGE] = s[TAIL] + 24, now, past < 31 and now + 1 or 0
            s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3] = 0, 0, 0
          elseif s[NEWEST] == s[LAST] then
            s[LAST] = now
          end
          s[1], s[2], s[3], s[SEEN], s[DIRTY] = s[1] + a1, s[2] + a2, s[3] + a3, now, true
          s[PEAK], s[PEAK + 1], s[PEAK + 2] = s[PEAK] + a1, s[PEAK + 1] + a2, s[PEAK + 2] + a3
          -- before MERGE a time joins the newest entry and gives it its own
          s[NEWEST] = now
          s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3] = s[NEWEST + 1] + a1, s[NEWEST + 2] + a2, s[NEWEST + 3] + a3
        end
        answers[replied] = pack('<BI7I7I7I6', 0, s[1], s[2], s[3], s[LAST])
      end
      s.walk = nil
    end
    if not carried then
      -- no ledger carries it: a hash does, with what is charged on its home, or else on its first ledger
      local _, a1, a2, a3 = read('<I2I6I6I6', args, from)
      local life = 60000
      for at = from, till, ASK_SIZE do
        local k = read('<I2', args, at)
        if k == home then
          _, a1, a2, a3 = read('<I2I6I6I6', args, at)
        end
        life = window[k] > life and window[k] or life
      end
      if not recorded then
        recorded, recorded_in, lasts_until = {}, {}, {}
      end
      recorded[id], recorded_in[id] = { id, now, 0, a1, a2, a3 }, records_key
      lasts_until[records_key] = math.max(lasts_until[records_key] or 0, now + life)
    end
    last_place = now > last_place and now or last_place
  else
    -- No ledger asked has bookings: the time is the latest of theirs. Per resource, walk the past until enough has left; equal
    -- questions of one batch are answered once.
    local exact, setter, setter_window, index, first = now, 0, 0, 0, replied
    for at = from, till, ASK_SIZE do
      local k, _, _, _, b1, b2, b3 = read(ASK_SUMMARY, args, at)
      local s = summary[k]
      index = index + 1
      if s then
        local walk = s.walk
        if not (walk and walk[4] == b1 and walk[5] == b2 and walk[6] == b3) then
          walk = { 0, 0, 0, b1, b2, b3 }
          s.walk = walk
          for r = 1, 3 do
            local used, bound, raw, w = s[r], walk[r + 3], s[RAW], window[k]
            if used <= bound or bound == UNBOUNDED then
              walk[r] = 0
            elseif s[KIND] == QUIET then
              local x = 17
              while used > bound do
                local stamp = read('<I6', raw, x)
                used = used - read('<I6', raw, x + 6 * r)
                walk[r], x = (stamp - stamp % 4) / 4 + w, x + RECORD_SIZE
              end
            else
              -- from whichever end fewer entries must be looked at; the newest entry is in the tail
              local frozen, past = read('<BI2', raw, #raw - COLD_SIZE - HOT_SIZE + 25)
              local base, key = frozen * RECORD_SIZE, KEYS[k + 1]
              local part, part_from, part_to = '', past, 0
              if bound < used - bound then
                local kept, i = s[NEWEST + r], past - 1
                walk[r] = s[NEWEST] + w
                while kept <= bound and i > 0 do
                  if i <= part_from then
                    part_from = i > 32 and i - 32 or 0
                    part = call('GETRANGE', key, format('%d', base + part_from * 24), format('%d', base + i * 24 - 1))
                  end
                  local x = (i - 1 - part_from) * 24 + 1
                  kept = kept + read('<I6', part, x + 6 * r)
                  walk[r], i = read('<I6', part, x) + w, i - 1
                end
              else
                local i = 1
                while used > bound and i < past do
                  if i > part_to then
                    part_from, part_to = part_to, part_to + 32
                    part = call('GETRANGE', key, format('%d', base + part_from * 24), format('%d', base + part_to * 24 - 1))
                  end
                  local x = (i - 1 - part_from) * 24 + 1
                  used = used - read('<I6', part, x + 6 * r)
                  walk[r], i = read('<I6', part, x) + w, i + 1
                end
                walk[r] = used > bound and s[NEWEST] + w or walk[r]
              end
            end
          end
        end
        local latest = walk[1] > walk[2] and walk[1] or walk[2]
        latest = latest > walk[3] and latest or walk[3]
        if latest > exact then
          exact = latest
          if window[k] > setter_window then
            setter, setter_window = index, window[k]
          end
        end
      end
    end
    answers[first] = pack('<BI6B', DENIED, exact, setter)
    for at = from, till, ASK_SIZE do
      local s = summary[read('<I2', args, at)]
      replied = replied + 1
      if s then
        local walk, last_at = s.walk, s[LAST]
        if last_at and last_at + window[read('<I2', args, at)] <= now then
          last_at = 0
        end
        if not last_at then
          -- of a quiet ledger the last charge; a tombstone, or what was settled to nothing, is none
          last_at = 0
          for x = s[COUNT] * RECORD_SIZE - RECORD_SIZE + 1, 1, -RECORD_SIZE do
            local _, stamp, c1, c2, c3 = read(RECORD, s[RAW], x)
            if c1 + c2 + c3 > 0 then
              last_at = (stamp - stamp % 4) / 4
              break
            end
          end
        end
        local short = (walk[1] == exact and 1 or 0) + (walk[2] == exact and 2 or 0) + (walk[3] == exact and 4 or 0)
        answers[replied] = pack('<BI7I7I7I6', short, s[1], s[2], s[3], last_at)
      else
        answers[replied] = rep('\0', 28)
      end
    end
  end
end
