-- lib/records.lua: reservations, as a quiet ledger carries them or as a hash does. Before lib/log.lua in `acquire`, `settle` and `control`.
--
-- The functions come into being only when `use_records` is called: see lib/log.lua, which has what an open log is.
-- MODEL  src/store/memory.rs

local STATE_OPEN, STATE_COMMITTED, STATE_RELEASED = 0, 1, 2
local NO_ID = rep('\0', 16)

local keep_record, find_record, insert_record, end_record, leave_tombstone, turn_into_log

local function use_records()
  local insert, remove = table.insert, table.remove

  -- Remembers a reservation that no ledger carries.
  function keep_record(records_key, id, at, state, a1, a2, a3, life)
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

  -- A quiet ledger that got too many reservations is a log from now on; the reservations stay in front until they have expired.
  function turn_into_log(log)
    local frozen = {}
    for i, r in ipairs(log.records) do
      frozen[i] = pack(RECORD, r[1], r[2] * 4 + r[3], r[4], r[5], r[6])
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

  -- The reservation `id`: { id, place, state, three amounts, carried by the log }, or nil; and whether its hash holds something else.
  function find_record(log, records_key, id)
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
    local raw = try('HGET', KEYS[records_key], id)
    if type(raw) == 'table' then
      return nil, true
    end
    if raw then
      local stamp, a1, a2, a3 = read('<I6I6I6I6', raw)
      return { id, (stamp - stamp % 4) / 4, stamp % 4, a1, a2, a3 }
    end
    local at = log and find(log.frozen, id, 1, true)
    while at and at % RECORD_SIZE ~= 1 do
      at = find(log.frozen, id, at + 1, true)
    end
    if at then
      local _, stamp, a1, a2, a3 = read(RECORD, log.frozen, at)
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
