-- lib/settle_in_full.lua: the settlements that summaries cannot answer. The last part of `settle`; see settle.lua for KEYS, ARGV, RETURNS, TTL,
-- PRE and MODEL.
-- COST  per ledger 1 GET, and 1 SET where it changes

use_records()
use_logs()

local function settle(id, ending, made_at, home, records_key, count, sets, checked, from)
  if ending == FREE then
    return free_slots(id, from + count * CHARGE_SIZE, sets, false) and SETTLED or CORRUPT
  end
  local charges, life, carrier = {}, 60000, nil
  for j = 1, count do
    local k, e1, e2, e3, a1, a2, a3 = read(CHARGE, args, from + j * CHARGE_SIZE - CHARGE_SIZE)
    local log = open_log(k)
    if not log then
      return CORRUPT
    end
    if a1 > AMOUNT_MAX or a2 > AMOUNT_MAX or a3 > AMOUNT_MAX then
      return OUT_OF_RANGE
    end
    charges[j] = { log, { e1, e2, e3 }, { a1, a2, a3 } }
    if j == 1 or k == home then
      carrier = charges[j]
    end
    if log.window > life then
      life = log.window
    end
  end
  local log = home > 0 and carrier[1]
  local record, broken = find_record(log, records_key, id, life)
  if broken then
    return CORRUPT
  end
  if record and record[2] + life <= now then
    record = nil
  end
  if sets > 0 and (not record or record[3] == STATE_OPEN) then
    -- a call may last longer than its record
    local lost = free_slots(id, from + count * CHARGE_SIZE, sets, checked == 1)
    if lost ~= 0 then
      return lost and LOST or CORRUPT
    end
  end
  if not record then
    if ending ~= COMMIT then
      if not (log and leave_tombstone(log, id)) then
        keep_record(log, records_key, id, now, STATE_RELEASED, 0, 0, 0, life)
      end
      if now > last_place then
        last_place = now
      end
    end
    return UNKNOWN
  end
  local state = record[3]
  if state == STATE_COMMITTED or state == STATE_RELEASED then
    return BEFORE
  end
  local place, ended = record[2], ending == COMMIT and STATE_COMMITTED or STATE_RELEASED
  -- a place given back is no place any more: its record is of now
  local since = ended == STATE_RELEASED and place > now and now or place
  local carried = log and log.records
  if carried then
    end_record(log, record, ended, since)
  else
    keep_record(log, records_key, id, since, ended, record[4], record[5], record[6], life)
  end
  for j = 1, count do
    local charge = charges[j]
    settle_log(charge[1], place, made_at > 0 and made_at or place, charge[2], charge[3], carried and charge == carrier and record)
  end
  return SETTLED
end

while answered < requests do
  local id, ending, made_at, home, count, sets, checked = read(REQUEST, args, position)
  local records_key = read('<I2', args, position + 28)
  local from = position + REQUEST_SIZE
  answered, position = answered + 1, from + count * CHARGE_SIZE + sets * 2
  answers[answered] = pack('<B', settle(id, ending, made_at, home, records_key, count, sets, checked, from))
end
