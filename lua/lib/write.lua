-- lib/write.lua: the last part of `acquire`, `settle` and `control`: writes what has changed, and answers.
--
-- Nothing before this part writes, but lib/fair/stand.lua, which notes who asks, and nothing in it can fail: every key has been read and holds what it should, or nothing.
-- TTL   every key written in full: its last time + 1.25 windows, at least 75 s; a log of which only the end is written keeps its TTL while that
--       outlasts its last time by a window

if settles then
  -- a Redis out of memory refuses no PEXPIRE, and after a first write no other
  local life = math.max(head_expires_at - now, longest * 1.25 + 1)
  call('PEXPIRE', keys[1], life <= 75001 and '75001' or format('%.0f', life))
end
-- A denial by summaries has changed no ledger.
for k = 1, (last_place > 0 or settles or opened) and ledgers or 0 do
  local s = logs[k]
  if opened and opened[k] then
    if opened[k].changed then
      close_log(opened[k])
    end
  elseif s then
    if s[DIRTY] then
      local key, raw, w, tail = keys[k + 1], s[RAW], window[k], s[TAIL]
      local cold = #raw - TAIL_SIZE + 1
      -- a key that would not outlast its entries lives longer
      local expires_at = read('<I6', raw, cold + 12)
      local outlives = expires_at >= s[LAST] + w
      if not outlives then
        expires_at = s[LAST] + math.ceil(math.max(w * 1.25, 75000))
        call('PEXPIRE', key, format('%.0f', expires_at - now))
      end
      if s[EDITS] then
        for i, e in pairs(s[EDITS]) do
          call('SETRANGE', key, format('%d', s[BASE] + i * ENTRY_SIZE - ENTRY_SIZE), pack(ENTRY, e[1], e[2], e[3], e[4]))
        end
      end
      local added, from, parts = s[ADDED], tail, ''
      if added then
        from = s[BASE] + s[KEPT] * ENTRY_SIZE
        for x = 1, #added, 4 do
          parts = parts .. pack(ENTRY, added[x], added[x + 1], added[x + 2], added[x + 3])
        end
        tail = from + #parts
      end
      if added or not outlives then
        local reset_at, born_at, _, frozen_until, frozen, past, booked = read(COLD, raw, cold)
        parts = parts .. pack(COLD, reset_at, born_at, expires_at, frozen_until, frozen, s[PAST] or past, s[BOOKED] or booked)
      else
        from = from + COLD_SIZE
      end
      if s[LAST] > s[NEWEST] then
        parts = parts .. pack(LINE, s[PEAK], s[PEAK + 1], s[PEAK + 2], s[AHEAD], s[AHEAD + 1], s[AHEAD + 2], s[AHEAD_FROM])
      elseif parts == '' then
        from = from + LINE_SIZE
      else
        parts = parts .. rep('\0', LINE_SIZE)
      end
      local value = pack(HOT, s[1], s[2], s[3], s[NEWEST], s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3], s[CALM], s[MERGE], s[LAST], tail,
        now, LOG)
      if parts ~= '' then
        -- joined only if there is something to join: a copy is hashed anew
        value = parts .. value
      end
      call('SETRANGE', key, format('%d', from), value)
    end
  elseif patched and patched[k] then
    -- one record and the sums; its last time, and so its life, stay
    local patch = patched[k]
    local record, sums = patch[2], patch[3]
    call('SETRANGE', keys[k + 1], format('%d', patch[1]), record)
    if sums ~= '' then
      call('SETRANGE', keys[k + 1], format('%d', #quiet[k] - TRAILER_SIZE), sums)
    end
  elseif changed and changed[k] then
    local value, life = quiet[k], changed[k] - now + window[k] * 1.25
    call('SET', keys[k + 1], value, 'PX', life <= 75000 and '75000' or format('%.0f', life + 1))
  end
end
if pools then
  for p = 1, pools_asked do
    local pool = pools[p]
    -- whether there is something to write: see lib/fair/stand.lua
    if pool and pool[7] then
      local level, next_at, users, heavy, pressed, held, _, key, _, w = unpack(pool)
      local state_flags, life = (pressed and 1 or 0) + (held and 2 or 0), math.ceil(w * 1.25)
      call('SET', keys[key], pack(POOL, level, next_at, state_flags, users, heavy, VERSION), 'PX',
        life <= 75000 and '75000' or format('%.0f', life))
    end
  end
end
if slots then
  for k, set in pairs(slots) do
    local key = keys[slots_from + k]
    if set.freed then
      for id in pairs(set.freed) do
        call('ZREM', key, id)
      end
    elseif set.changed then
      -- this first: a Redis out of memory refuses it, and with it the slot
      call('ZADD', key, '-' .. format('%d', set.token), 'token')
      for id, expires_at in pairs(set.taken) do
        call('ZADD', key, format('%d', expires_at), id)
      end
      call('ZREMRANGEBYSCORE', key, '0', now_text)
      -- another's leases may be longer
      local life = math.max(set.life * 2, 75000)
      if call('PTTL', key) < life then
        call('PEXPIRE', key, format('%.0f', life * 1.25))
      end
    end
  end
end
if recorded then
  for id, r in pairs(recorded) do
    call('HSET', keys[recorded_in[id]], id, pack('<I6I6I6I6', r[2] * 4 + r[3], r[4], r[5], r[6]))
  end
  for records_key, until_at in pairs(lasts_until) do
    local life = math.ceil(math.max(until_at - now, 75000))
    if call('PTTL', keys[records_key]) < life then
      call('PEXPIRE', keys[records_key], format('%.0f', life))
    end
  end
end
-- The head is written when it is new, when a loss is marked or must be remembered for longer, when the clock had to be held (whoever looks
-- next must know by how much), and else at most once a second.
if last_place > 0 and (now - head_seen_at >= 1000 or head_expires_at < last_place + longest) or offset ~= head_offset or epoch then
  head_expires_at = math.max(head_expires_at, math.ceil(math.max(now, last_place) + math.max(longest * 1.25, 75000)))
  -- a new life of the data: of two that begin at one time, the random part of the first id tells one from the other
  epoch = epoch or head and sub(head, 19, 26)
    or pack('<I6I2', now, requests > 0 and read('<I2', args, first_request + 10) or time[2] % 65536)
  head = pack(HEAD, offset, now, head_expires_at, epoch, flags, VERSION)
  call('SET', keys[1], head, 'PX', format('%.0f', head_expires_at - now))
end
if answers_now then
  answers[1] = pack('<I6B', now, life)
  if life ~= 8 or epoch then
    life = life % 8
    answers[1] = pack('<I6B', now, lost_at > 0 and life + 1 or life) .. (head and sub(head, 13, 26) or rep('\0', 14))
  end
end
return table.concat(answers)
