-- lib/write.lua: the last part of `acquire`, `settle` and `control`: writes what has changed, and answers.
--
-- Nothing before this part writes, and nothing in it can fail: every key has been read and holds what it should, or nothing.
-- TTL   every key: its last time + 1.25 windows, at least 75 s

if not epoch then
  -- a new org: the random part of the first id tells this life of its data from another
  epoch = last_place > 0 and sub(args, first_request + 8, first_request + 15) or rep('\0', 8)
end
if settles then
  -- a Redis out of memory refuses no PEXPIRE, and after a first write no other
  call('PEXPIRE', KEYS[1], format('%.0f', math.max(head_expires_at - now, longest * 1.25 + 1, 75000)))
end
for k = 1, ledgers do
  local s = summary[k]
  if s then
    local kind = s[KIND]
    if kind == 0 then
      if s.log.changed then
        close_log(s.log)
      end
    elseif s[DIRTY] then
      local key = KEYS[k + 1]
      if kind == QUIET then
        local w = window[k]
        call('SET', key, sub(s[RAW], 1, s[COUNT] * RECORD_SIZE) .. pack(TRAILER, s[1], s[2], s[3], s[SEEN], s[RESET], s[COUNT], QUIET),
          'PX', w <= 60000 and '75000' or format('%.0f', w * 1.25 + 1))
      else
        local tail = s[TAIL]
        local hot = pack(HOT, s[1], s[2], s[3], s[PEAK], s[PEAK + 1], s[PEAK + 2], s[NEWEST], s[NEWEST + 1], s[NEWEST + 2],
          s[NEWEST + 3], s[SEEN], s[CALM], s[MERGE], s[LAST], tail, kind)
        if s.edits then
          for i = 1, #s.edits, 2 do
            call('SETRANGE', key, format('%d', s.edits[i]), s.edits[i + 1])
          end
        end
        -- the cold part, wherever it stands in what was read: a key that would not outlast its entries lives longer
        local expires_at = read('<I6', s[RAW], #s[RAW] - COLD_SIZE - HOT_SIZE + 13)
        if expires_at < s[LAST] + window[k] then
          expires_at = s[LAST] + math.ceil(math.max(window[k] * 1.25, 75000))
          call('PEXPIRE', key, format('%.0f', expires_at - now))
          if s.appended then
            s.appended = sub(s.appended, 1, 60) .. pack('<I6', expires_at) .. sub(s.appended, 67)
          else
            call('SETRANGE', key, format('%d', tail + 12), pack('<I6', expires_at))
          end
        end
        if s.appended then
          call('SETRANGE', key, format('%d', tail - 48), s.appended .. hot)
        else
          call('SETRANGE', key, format('%d', tail + COLD_SIZE), hot)
        end
      end
    end
  end
end
if recorded then
  for id, r in pairs(recorded) do
    call('HSET', KEYS[recorded_in[id]], id, pack('<I6I6I6I6', r[2] * 4 + r[3], r[4], r[5], r[6]))
  end
  for records_key, until_at in pairs(lasts_until) do
    local life = math.ceil(math.max(until_at - now, 75000))
    if call('PTTL', KEYS[records_key]) < life then
      call('PEXPIRE', KEYS[records_key], format('%.0f', life))
    end
  end
end
-- The head is written when it is new, when the clock had to be held, and else at most once a second.
local charged_till = last_place + longest
if last_place > 0 and (now - head_seen_at >= 1000 or head_expires_at < charged_till) or head and offset ~= head_offset then
  head_expires_at = math.max(head_expires_at, math.ceil(math.max(now, last_place) + math.max(longest * 1.25, 75000)))
  call('SET', KEYS[1], pack(HEAD, offset, now, head_expires_at, epoch, flags, HEAD_VERSION), 'PX',
    format('%.0f', head_expires_at - now))
end
return (answers_epoch and pack('<I6c8', now, epoch) or '') .. table.concat(answers)
