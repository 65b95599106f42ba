-- lib/records.lua: reservations, as a quiet ledger carries them or as a hash does. Before lib/log.lua in `acquire`, `settle` and `control`.
--
-- The functions come into being only when `use_records` is called: see lib/log.lua, which has what an open log is.
-- MODEL  src/store/memory.rs

local STATE_OPEN, STATE_COMMITTED, STATE_RELEASED = 0, 1, 2
local NO_ID = rep('\0', 16)

local keep_record, find_record, insert_record, end_record, leave_tombstone, turn_into_log

local function use_records()
  local insert, remove, min = table.insert, table.remove, math.min

  -- Where among the frozen records of a log `id` is; nil if nowhere.
  local function frozen_at(log, id)
    local at = find(log.frozen, id, 1, true)
    while at and at % RECORD_SIZE ~= 1 do
      at = find(log.frozen, id, at + 1, true)
    end
    return at
  end

  -- Remembers a reservation that no ledger carries, or none any more.
  function keep_record(log, records_key, id, at, state, a1, a2, a3, life)
    local frozen = log and frozen_at(log, id)
    if frozen then
      log.frozen, log.changed = sub(log.frozen, 1, frozen - 1) .. NO_ID .. sub(log.frozen, frozen + 16), true
    end
    -- a quiet ledger in its place would not know of it, so the log must last as long
    if log and log.expires_at < at + life then
      log.changed = true
    end
    if not recorded then
      recorded, recorded_in, lasts_until = {}, {}, {}
    end
    recorded[id] = { id, at, state, a1, a2, a3 }
    recorded_in[id] = records_key
    local until_at = at + life
    if not lasts_until[records_key] or lasts_until[records_key] < until_at then
      lasts_until[records_key] = until_at
    end
  end

  -- A quiet ledger that got too many reservations, or too large a one, is a log from now on; the reservations stay in front until they have
  -- expired.
  function turn_into_log(log)
    local frozen = {}
    for i, r in ipairs(log.records) do
      frozen[i] = pack(RECORD, r[1], r[2] * 4 + r[3], min(r[4], NARROW_MAX), min(r[5], NARROW_MAX), min(r[6], NARROW_MAX))
    end
    local last = log.records[#log.records]
    log.frozen, log.frozen_until = table.concat(frozen), (last and last[2] or 0) + log.window
    log.records, log.from, log.cut, log.stored = nil, 1, 0, ''
  end

  -- Records are in the order of their times.
  function insert_record(log, r)
    local i = #log.records
    while i > 0 and log.records[i][2] > r[2] do
      i = i - 1
    end
    insert(log.records, i + 1, r)
    log.changed = true
  end

  -- Ends a reservation that a quiet ledger carries; `since` is the time of its record from now on.
  function end_record(log, record, state, since)
    record[3] = state
    log.changed = true
    if record[2] ~= since then
      for i, r in ipairs(log.records) do
        if r == record then
          remove(log.records, i)
          break
        end
      end
      record[2] = since
      insert_record(log, record)
    end
  end

  -- The reservation `id`: { id, place, state, three amounts }, or nil; and whether its hash holds something else. What its hash has from
  -- before `life` is as good as gone.
  function find_record(log, records_key, id, life)
    if log and log.records then
      for _, r in ipairs(log.records) do
        if r[1] == id then
          return r
        end
      end
      return nil
    end
    if recorded and recorded[id] then
      return recorded[id]
    end
    local raw = try('HGET', keys[records_key], id)
    if type(raw) == 'table' then
      return nil, true
    end
    if raw then
      local stamp, a1, a2, a3 = read('<I6I6I6I6', raw)
      local at = (stamp - stamp % 4) / 4
      if at + life > now then
        return { id, at, stamp % 4, a1, a2, a3 }
      end
    end
    local frozen = log and frozen_at(log, id)
    if frozen then
      local _, stamp, a1, a2, a3 = read(RECORD, log.frozen, frozen)
      return { id, (stamp - stamp % 4) / 4, stamp % 4, a1, a2, a3 }
    end
  end

  -- Marks `id` as released in a log that can carry it, and says whether it does.
  function leave_tombstone(log, id)
    if log.fresh then
      log.records, log.born_at, log.fresh = {}, 0, nil
    end
    if log.records and #log.records >= RECORDS_MAX then
      turn_into_log(log)
      log.changed = true
    end
    if not log.records then
      return false
    end
    insert_record(log, { id, now, STATE_RELEASED, 0, 0, 0 })
    return true
  end
end
