-- lib/acquire_in_full.lua: the requests that summaries cannot answer: repeats, bookings, moves, departures. The last part of `acquire`; see
-- acquire.lua for KEYS, ARGV, RETURNS, TTL, PRE and MODEL.
-- COST  per ledger 1 GET, and 1 SET where it changes

    if not pool then
      return nil
    end
    -- a pool keeps a light user out only where it is full itself, whatever else its ledger counts
    local full_at = not heavy and used > of_pool[4 + place] and pool_ask or -1
    if heavy then
      of_pool[4 + place] = math.max(math.min(of_pool[4 + place], pool[LIMIT] - reserve - cost), 0)
      own[4 + place] = math.max(math.min(own[4 + place], share_now - cost), 0)
      max_wait = math.min(max_wait, math.floor(w / HEAVY_PARTS))
    end
    for _, value in ipairs({ pool, heavy, cost, used, held, full_at, share_now }) do
      standings[#standings + 1] = value
    end
  end
  return standings, max_wait
end

-- The answer to one request in full: repeats, bookings, moves, and whatever else no summary can answer.
local token
local function decide(id, moves_up, max_wait, home, records_key, count, shares, sets, from)
  local asks, life, sets_at = {}, 60000, from + count * ASK_SIZE
  local shares_at = sets_at + sets * SLOTS_SIZE
  for j = 1, count do
    local k, a1, a2, a3, b1, b2, b3, horizon = read(ASK, args, from + j * ASK_SIZE - ASK_SIZE)
    local log = open_log(k)
    if not log then
      return CORRUPT
    end
    if a1 > AMOUNT_MAX or a2 > AMOUNT_MAX or a3 > AMOUNT_MAX then
      return OUT_OF_RANGE
    end
    asks[j] = { k, a1, a2, a3, b1, b2, b3, horizon, log = log }
    if log.window > life then
      life = log.window
    end
  end
  local carrier = asks[1] or { 0, 0, 0, 0 }
  for j = 1, count do
    if asks[j][1] == home then
      carrier = asks[j]
    end
  end
  local record, broken = find_record(home > 0 and carrier.log, records_key, id, life)
  if broken then
    return CORRUPT
  end
  if record and record[2] + life <= now then
    record = nil
  end
  local place, standings, setter
  if record then
    local state = record[3]
    if state == STATE_RELEASED then
      return RELEASED, record[2], 0, asks
    end
    if state == STATE_OPEN and (record[4] ~= carrier[2] or record[5] ~= carrier[3] or record[6] ~= carrier[4]) then
      return MISMATCH, record[2], 0, asks
    end
    place = record[2]
    if moves_up == 0 or state ~= STATE_OPEN or place <= now then
      if sets > 0 and state == STATE_OPEN and place <= now then
        -- its time has come, or the answer that it has was lost
        local full, given = take_slots(id, sets_at, sets, true)
        if full ~= 0 then
          return full and FULL or CORRUPT, given, full, asks
        end
        token = given
      end
      return ADMITTED, place, 0, asks
    end
    -- its own place is given back first; then it moves up or stays
    local kept = {}
    for j = 1, count do
      kept[j] = take_back(asks[j], place, id)
    end
    if not lower(asks, max_wait, shares, shares_at, false) then
      for j = 1, count do
        restore(asks[j], kept[j])
      end
      return CORRUPT
    end
    local exact, setter = earliest(asks, now)
    local at = place_in_line(asks, UNBOUNDED, exact, setter)
    if not at or at >= place then
      for j = 1, count do
        restore(asks[j], kept[j])
      end
      return ADMITTED, place, 0, asks
    end
    place = at
  else
    standings, max_wait = lower(asks, max_wait, shares, shares_at, true)
    if not standings then
      return CORRUPT
    end
    local exact
    exact, setter = earliest(asks, now)
    if not setter then
      place = now
    elseif max_wait > 0 then
      place = place_in_line(asks, max_wait, exact, setter)
    end
    if not place then
      for j = 1, count do
        asks[j].short = short_at(asks[j].log, exact - 1, asks[j])
      end
      return DENIED, exact, setter, asks, standings, setter
    end
  end
  if place == now and sets > 0 and not record then
    local full, given = take_slots(id, sets_at, sets, true)
    if full ~= 0 then
      return full and FULL or CORRUPT, given, full, asks, standings, setter or 0
    end
    token = given
  end
  local carried = false
  for j = 1, count do
    local ask = asks[j]
    if put(ask.log, place, ask[2], ask[3], ask[4], home == ask[1] and id) then
      carried = true
    end
    fold(ask.log)
  end
  if not carried then
    keep_record(home > 0 and carrier.log, records_key, id, place, STATE_OPEN, carrier[2], carrier[3], carrier[4], life)
  end
  if place > last_place then
    last_place = place
  end
  return ADMITTED, place, 0, asks, standings, setter or 0
end

while answered < requests do
  local id, form, max_wait, home, count = read(REQUEST, args, position)
  local records_key = read('<I2', args, position + 26)
  local from, shares, sets, version, until_at = position + REQUEST_SIZE, 0, 0, 0, UNBOUNDED
  if form >= LONG then
    form, shares, sets, version, until_at, from = form - LONG, read(MORE, args, from)
  end
  local sets_at = from + count * ASK_SIZE
  answered, position, token = answered + 1, sets_at + sets * SLOTS_SIZE, 0
  for _ = 1, shares do
    local _, _, _, _, _, _, _, _, _, _, after = read(FAIR, args, position)
    position = after
  end
  local code, at, kept_by, asks, standings, setter
  if version ~= controls_version or now >= until_at then
    code = STALE
  elseif form == 2 then
    code, at = DENIED, now
  else
    code, at, kept_by, asks, standings, setter =
      decide(id, form, math.min(max_wait, until_at - now - 1), home, records_key, count, shares, sets, from)
  end
  replied = replied + 1
  answers[replied] = pack('<BI6B', code, at or 0, kept_by or 0)
  for j = 1, count do
    replied = replied + 1
    local log = asks and asks[j].log
    if log then
      local n, used = log.n, log.used
      answers[replied] = pack('<BI7I7I7I6', asks[j].short or 0, math.min(used[1], TOTAL_MAX), math.min(used[2], TOTAL_MAX),
        math.min(used[3], TOTAL_MAX), n > 0 and log.F[n * 4 - 3] or 0)
    else
      answers[replied] = rep('\0', 28)
    end
  end
  if not standings then
    replied = replied + 1
    answers[replied] = rep('\0', 7 * shares)
  end
