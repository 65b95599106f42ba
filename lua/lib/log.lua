-- lib/log.lua: the calendar log in full, for whatever the summaries of lib/read.lua cannot answer. The second part of `acquire`, `settle`
-- and `control`.
--
-- The functions come into being only when `use_logs` is called: a decision that needs none does not pay for them.
-- MODEL  src/calendar/ledger.rs, function by function; tests/it/model.rs holds the two together
--
-- An open log is a table:
--   window     ms
--   n, past    number of entries; how many of them are not later than now
--   F          entries, flat: time and three amounts each, times ascending and distinct, never all nothing
--   used       { three sums over (now - window, now] }
--   closed     no three neighbours of the past can be folded
--   records    of a quiet ledger: { id, time, state, three amounts } each, by time
--   from       entries from this one on are not as the key has them; `cut` bytes of what the key has come before the first entry
--   wide       an amount is too large for a record
--   changed    there is something to write

local open_log, put, fold, take_back, restore, settle_log, reset_log

local function use_logs()
  local ceil, min, max, insert, remove = math.ceil, math.min, math.max, table.insert, table.remove

  local function recount(log)
    local F, from = log.F, now - log.window
    local s1, s2, s3 = 0, 0, 0
    for x = 1, log.past * 4, 4 do
      if F[x] > from then
        s1, s2, s3 = s1 + F[x + 1], s2 + F[x + 2], s3 + F[x + 3]
      end
    end
    log.used = { s1, s2, s3 }
  end

  -- Entries that left the window go; bookings whose time has come are past.
  local function advance(log)
    local F, n, from = log.F, log.n, now - log.window
    local gone, past = 0, log.past
    while gone < n and F[gone * 4 + 1] <= from do
      gone = gone + 1
    end
    while past < n and F[past * 4 + 1] <= now do
      past = past + 1
      log.closed = false
    end
    if gone > 0 then
      local live = {}
      for x = gone * 4 + 1, n * 4 do
        live[x - gone * 4] = F[x]
      end
      log.F, log.n = live, n - gone
      log.cut, log.from = log.cut + gone * ENTRY_SIZE, max(1, log.from - gone)
    end
    if gone > 0 or past > log.past or log.used[1] >= TOTAL_MAX or log.used[2] >= TOTAL_MAX or log.used[3] >= TOTAL_MAX then
      log.past = past - gone
      recount(log)
    end
  end

  -- Adds amounts at a time to the entries; what is stored elsewhere (used, records) is the caller's.
  local function put_entry(log, at, a1, a2, a3)
    local F, i = log.F, log.n
    while i > 0 and F[i * 4 - 3] > at do
      i = i - 1
    end
    local x = i * 4 - 3
    if i > 0 and F[x] == at then
      F[x + 1] = min(F[x + 1] + a1, ENTRY_MAX)
      F[x + 2] = min(F[x + 2] + a2, ENTRY_MAX)
      F[x + 3] = min(F[x + 3] + a3, ENTRY_MAX)
      log.from = min(log.from, i)
      return
    end
    for y = log.n * 4, x + 4, -1 do
      F[y + 4] = F[y]
    end
    F[x + 4], F[x + 5], F[x + 6], F[x + 7] = at, a1, a2, a3
    log.n = log.n + 1
    log.from = min(log.from, i + 1)
    if at <= now then
      -- an entry among the past, not after it, may leave three neighbours that can be folded
      log.past = log.past + 1
      log.closed = log.closed and i + 1 == log.past
    end
  end

  local function drop_entry(log, i)
    for x = i * 4 - 3, log.n * 4 do
      log.F[x] = log.F[x + 4]
    end
    log.n = log.n - 1
    log.past = log.past - (i <= log.past and 1 or 0)
    log.from = min(log.from, i)
  end

  -- The log of ledger k, opened at now; nil if the key holds something else.
  function open_log(k)
    if broken and broken[k] then
      return nil
    end
    opened = opened or {}
    if opened[k] then
      return opened[k]
    end
    local s, raw = logs[k], quiet[k]
    local log = {
      k = k, window = window[k], n = 0, past = 0, F = {}, used = { 0, 0, 0 }, closed = false, from = 1, cut = 0, stored = '',
      changed = changed and changed[k] and true or false, reset_at = 0, born_at = now, expires_at = 0, frozen = '', frozen_until = 0, records = nil,
    }
    if raw then
      local records, patch = {}, patched and patched[k]
      if patch then
        raw = sub(raw, 1, patch[1]) .. patch[2] .. sub(raw, patch[1] + #patch[2] + 1, -TRAILER_SIZE - 1) .. patch[3] .. sub(raw, -8)
        log.changed = true
      end
      for x = 1, #raw - TRAILER_SIZE, RECORD_SIZE do
        local id, stamp, a1, a2, a3 = read(RECORD, raw, x)
        local state = stamp % 4
        local at = (stamp - state) / 4
        if at + log.window > now then
          insert(records, { id, at, state, a1, a2, a3 })
          if a1 + a2 + a3 > 0 then
            put_entry(log, at, a1, a2, a3)
          end
        end
      end
      -- the past of a quiet ledger is what it had seen; its log is small enough to count anew
      log.records, log.born_at = records, 0
    elseif s then
      raw = call('GET', keys[k + 1])
      local frozen, past, booked
      log.reset_at, log.born_at, log.expires_at, log.frozen_until, frozen, past, booked = read(COLD, raw, s[TAIL] + 1)
      log.cut = frozen * RECORD_SIZE
      log.frozen, log.stored = sub(raw, 1, log.cut), raw
      local stored = past + booked
      if s[ADDED] then
        past, booked, stored = s[PAST], s[BOOKED], s[KEPT]
      end
      log.n, log.past = past + booked, past
      local F = { read('<' .. rep('I6I6I6I6', stored), raw, log.cut + 1) }
      F[stored * 4 + 1] = nil
      log.F, log.from = F, stored + 1
      for i, value in ipairs(s[ADDED] or {}) do
        F[stored * 4 + i] = value
      end
      for i, e in pairs(s[EDITS] or {}) do
        local x = i * 4 - 3
        F[x], F[x + 1], F[x + 2], F[x + 3] = e[1], e[2], e[3], e[4]
        log.from = min(log.from, i)
      end
      if past > 0 then
        local x = past * 4 - 3
        F[x], F[x + 1], F[x + 2], F[x + 3] = s[NEWEST], s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3]
        log.from = min(log.from, past)
      end
      log.used = { s[1], s[2], s[3] }
      log.closed = past >= KEEP and s[MERGE] > 0
      log.changed = s[DIRTY]
      if log.frozen_until <= now then
        log.frozen = ''
      end
    else
      log.fresh = true
    end
    advance(log)
    if log.records then
      recount(log)
    end
    opened[k] = log
    return log
  end

  -- Above KEEP past times, no three neighbours may lie within a 64th of the window: the middle one joins the later one.
  function fold(log)
    if log.past <= KEEP then
      -- so few may lie as near as they like
      log.closed = false
      return
    end
    local F, middle = log.F, log.closed and log.past - 1 or 2
    while middle < log.past do
      local x = middle * 4 - 3
      if (F[x + 4] - F[x - 4]) * PARTS < log.window then
        for r = 1, 3 do
          F[x + 4 + r] = min(F[x + 4 + r] + F[x + r], ENTRY_MAX)
        end
        drop_entry(log, middle)
      else
        middle = middle + 1
      end
    end
    log.closed = true
  end

  -- Charges amounts at a time, for the reservation `id` if this log may carry it, and says whether it does.
  function put(log, at, a1, a2, a3, id)
    log.changed = true
    if log.fresh and id then
      log.records, log.born_at = {}, 0
    end
    log.fresh = nil
    local carried = false
    if log.records then
      if #log.records >= RECORDS_MAX or max(a1, a2, a3) > NARROW_MAX then
        turn_into_log(log)
      else
        insert_record(log, { id or NO_ID, at, id and STATE_OPEN or STATE_COMMITTED, a1, a2, a3 })
        carried = id and true or false
      end
    end
    if a1 + a2 + a3 > 0 then
      put_entry(log, at, a1, a2, a3)
      if at <= now then
        local used = log.used
        used[1], used[2], used[3] = used[1] + a1, used[2] + a2, used[3] + a3
      end
    end
    return carried
  end

  -- Gives a booked place back, to ask for a better one; what it returns brings it back as it was.
  function take_back(ask, place, id)
    local log = ask.log
    local F, records = {}, log.records and {}
    for x = 1, log.n * 4 do
      F[x] = log.F[x]
    end
    local kept = { F, log.n, log.past, log.from, log.changed, log.records }
    if records then
      for _, r in ipairs(log.records) do
        if r[1] ~= id then
          insert(records, r)
        end
      end
      log.records = records
    end
    for i = log.n, 1, -1 do
      local x = i * 4 - 3
      if log.F[x] == place then
        for r = 1, 3 do
          log.F[x + r] = max(0, log.F[x + r] - ask[r + 1])
        end
        log.from, log.changed = min(log.from, i), true
        if log.F[x + 1] + log.F[x + 2] + log.F[x + 3] == 0 then
          drop_entry(log, i)
        end
        break
      end
    end
    return kept
  end

  function restore(ask, kept)
    local log = ask.log
    log.F, log.n, log.past, log.from, log.changed, log.records = kept[1], kept[2], kept[3], kept[4], kept[5], kept[6]
  end

  -- Changes the charge of three estimates made at `at` to three actual amounts. `r` is its record, if it is a quiet ledger that carries it.
  function settle_log(log, at, made_at, e, a, r)
    local estimated = e[1] + e[2] + e[3] > 0
    if at + log.window <= now or estimated and (at <= log.reset_at or made_at < log.born_at) then
      return
    end
    local d1, d2, d3 = a[1] - e[1], a[2] - e[2], a[3] - e[3]
    if d1 == 0 and d2 == 0 and d3 == 0 then
      return
    end
    log.changed = true
    local F, i = log.F, log.n + 1
    while i > 1 and F[i * 4 - 7] >= at do
      i = i - 1
    end
    local x = i * 4 - 3
    if not estimated or i > log.n or F[x] > max(at, now) then
      -- nobody holds it: what is owed is charged now
      d1, d2, d3 = max(d1, 0), max(d2, 0), max(d3, 0)
      if d1 + d2 + d3 > 0 then
        put(log, now, d1, d2, d3)
        fold(log)
        recount(log)
      end
      return
    end
    local used = log.used
    for n = 1, 3 do
      local settled = max(0, min(F[x + n] + a[n] - e[n], ENTRY_MAX))
      if i <= log.past then
        used[n] = used[n] + settled - F[x + n]
      end
      F[x + n] = settled
    end
    log.from = min(log.from, i)
    if F[x + 1] + F[x + 2] + F[x + 3] == 0 then
      drop_entry(log, i)
    end
    if r then
      r[4], r[5], r[6] = a[1], a[2], a[3]
      log.wide = log.wide or max(a[1], a[2], a[3]) > NARROW_MAX
    elseif log.records then
      -- an entry of nobody's, made by a request that carries its reservation elsewhere
      for _, other in ipairs(log.records) do
        if other[1] == NO_ID and other[2] == at and other[4] >= e[1] and other[5] >= e[2] and other[6] >= e[3] then
          other[4], other[5], other[6] = other[4] + d1, other[5] + d2, other[6] + d3
          log.wide = log.wide or max(other[4], other[5], other[6]) > NARROW_MAX
          break
        end
      end
    end
  end

  -- Empties the past; booked places stay.
  function reset_log(log)
    if log.past == 0 then
      return
    end
    for _ = 1, log.past do
      drop_entry(log, 1)
    end
    if log.records then
      -- a quiet ledger has no place for the time of a reset
      turn_into_log(log)
    end
    log.used, log.reset_at, log.changed = { 0, 0, 0 }, now, true
  end

  -- Writes a log back. Nothing here can fail: the key has been read, and holds a string or nothing.
  function close_log(log)
    local F, n, past, w = log.F, log.n, log.past, log.window
    local key, used = keys[log.k + 1], log.used
    local last_at = n > 0 and F[n * 4 - 3] or 0
    local first_at = n > 0 and F[1] or now
    local u1, u2, u3 = min(used[1], TOTAL_MAX), min(used[2], TOTAL_MAX), min(used[3], TOTAL_MAX)
    if log.wide then
      turn_into_log(log)
    end
    if log.records then
      local out, records = {}, log.records
      local count = #records
      for i = 1, count do
        local r = records[i]
        out[i] = pack(RECORD, r[1], r[2] * 4 + r[3], r[4], r[5], r[6])
        last_at = max(last_at, r[2])
      end
      out[count + 1] = pack(TRAILER, u1, u2, u3, n > past and count + 128 or count, now, QUIET)
      local life = max(last_at, now) + max(w * 1.25, 75000) - now
      call('SET', key, table.concat(out), 'PX', format('%.0f', ceil(life)))
      return
    end
    local expires_at = max(last_at, now) + ceil(max(w * 1.25, 75000))
    local calm_until = first_at + w
    local p1, p2, p3, s1, s2, s3, low, joins = 0, 0, 0, used[1], used[2], used[3], 1, true
    if n > past then
      -- what the windows that end at booked times hold: the fullest of those within a window of now, and that of the last
      calm_until = min(calm_until, F[past * 4 + 1])
      for i = past + 1, n do
        local x = i * 4 - 3
        local from = F[x] - w
        while F[low] <= from do
          s1, s2, s3 = s1 - F[low + 1], s2 - F[low + 2], s3 - F[low + 3]
          low = low + 4
        end
        s1, s2, s3 = s1 + F[x + 1], s2 + F[x + 2], s3 + F[x + 3]
        if from < now then
          p1, p2, p3 = max(p1, s1), max(p2, s2), max(p3, s3)
          -- a time that joins the newest entry would bring it into this window
          joins = joins and (past == 0 or from < F[past * 4 - 3])
        else
          calm_until = min(calm_until, from + 1)
        end
      end
    end
    if max(u1, u2, u3, p1, p2, p3) > ENTRY_MAX or max(s1, s2, s3) > ENTRY_MAX then
      -- sums that are not exact any more, or too large to compare with any bound
      calm_until, p1, p2, p3, s1, s2, s3 = 0, 0, 0, 0, 0, 0, 0
    end
    local newest_at, newest1, newest2, newest3, merge_until = 0, 0, 0, 0, 0
    if past > 0 then
      local x = past * 4 - 3
      newest_at, newest1, newest2, newest3 = F[x], F[x + 1], F[x + 2], F[x + 3]
      if past < KEEP then
        merge_until = newest_at + 1
      elseif log.closed and joins then
        merge_until = F[x - 4] + ceil(w / PARTS)
      end
    end
    local parts = { log.frozen, sub(log.stored, log.cut + 1, log.cut + (log.from - 1) * ENTRY_SIZE) }
    for i = log.from, n do
      local x = i * 4 - 3
      parts[#parts + 1] = pack(ENTRY, F[x], F[x + 1], F[x + 2], F[x + 3])
    end
    parts[#parts + 1] = pack(COLD, log.reset_at, log.born_at, expires_at, log.frozen_until, #log.frozen / RECORD_SIZE, past, n - past)
    parts[#parts + 1] = pack(LINE, p1, p2, p3, s1, s2, s3, (low + 3) / 4)
    parts[#parts + 1] = pack(HOT, u1, u2, u3, newest_at, newest1, newest2, newest3, calm_until, merge_until, last_at,
      #log.frozen + n * ENTRY_SIZE, now, LOG)
    call('SET', key, table.concat(parts), 'PX', format('%.0f', expires_at - now))
  end
end
