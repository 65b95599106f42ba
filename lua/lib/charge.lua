-- lib/charge.lua: charges a request at its place, now or later, and answers: the end of the loop in acquire.lua.
--
-- MODEL  src/calendar/ledger.rs; tests/it/model.rs holds the two together

  local token = 0
  if place == now and sets > 0 then
    local full
    full, token = take_slots(id, sets_at, sets, false)
    if full ~= 0 then
      break
    end
  end
  if place then
    replied, answered, position = replied + 1, answered + 1, next_position
    answers[replied] = pack('<BI6B', ADMITTED, place, 0)
    for at = from, till, ASK_SIZE do
      replied = replied + 1
      if at == carrier_at then
        local booked = 0
        if place > now then
          booked = 128
        else
          used1, used2, used3 = used1 + carried1, used2 + carried2, used3 + carried3
        end
        local record = pack('<c16I6I4I4I4I6I6I6BI6B', id, place * 4, carried1, carried2, carried3, used1, used2, used3,
          held + 1 + booked, now, QUIET)
        quiet[carrier] = held > 0 and sub(quiet[carrier], first, first + held * RECORD_SIZE - 1) .. record or record
        changed = changed or { false, false, false, false }
        changed[carrier] = place
        answers[replied] = pack('<BI7I7I7I6', 0, used1, used2, used3, place)
      else
        local k, a1, a2, a3 = read(ASK_AMOUNTS, asked, at)
        local s, w = logs[k], window[k]
        if a1 + a2 + a3 > 0 then
          local booked = s[LAST] > s[NEWEST]
          s[DIRTY], s[WALK] = true, false
          if place == now then
            if now < s[MERGE] then
              -- it joins the newest entry and gives it its own time
              s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3] = s[NEWEST + 1] + a1, s[NEWEST + 2] + a2, s[NEWEST + 3] + a3
            else
              -- the entry so far the newest moves into its place; what the newest is, only the tail knows
              local raw = s[RAW]
              local frozen, past = read('<BI2', raw, #raw - TAIL_SIZE + 25)
              s[BASE], s[KEPT], s[PAST], s[BOOKED] = frozen * RECORD_SIZE, past - 1, past + 1, 0
              s[ADDED] = { s[NEWEST], s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3], now, a1, a2, a3 }
              s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3] = a1, a2, a3
              s[MERGE] = past < 31 and now + 1 or 0
            end
            s[NEWEST] = now
            s[1], s[2], s[3] = s[1] + a1, s[2] + a2, s[3] + a3
            if not booked then
              s[LAST] = now
            else
              -- every window that ends at a booking within a window of now holds it, and held the newest entry before
              s[PEAK], s[PEAK + 1], s[PEAK + 2] = s[PEAK] + a1, s[PEAK + 1] + a2, s[PEAK + 2] + a3
              if s[LAST] < now + w then
                s[AHEAD], s[AHEAD + 1], s[AHEAD + 2] = s[AHEAD] + a1, s[AHEAD + 1] + a2, s[AHEAD + 2] + a3
              end
            end
          else
            -- a booking: what comes after it in the list is written anew
            if not s[PAST] then
              local frozen, past, later = read('<BI2I2', s[RAW], #s[RAW] - TAIL_SIZE + 25)
              s[PAST], s[BOOKED], s[BASE], s[KEPT] = past, later, frozen * RECORD_SIZE, past + later
            end
            local added, n = s[ADDED] or {}, s[PAST] + s[BOOKED]
            local p = n + 1
            while p > s[PAST] + 1 and entry_at(k, s, p - 1, -1) >= place do
              p = p - 1
            end
            if p <= n then
              added = {}
              for i = math.min(p, s[KEPT] + 1), n do
                local t, g1, g2, g3 = entry_at(k, s, i, 1)
                local x = #added
                if t == place then
                  g1, g2, g3 = g1 + a1, g2 + a2, g3 + a3
                elseif i == p then
                  added[x + 1], added[x + 2], added[x + 3], added[x + 4] = place, a1, a2, a3
                  x = x + 4
                  s[BOOKED] = s[BOOKED] + 1
                end
                added[x + 1], added[x + 2], added[x + 3], added[x + 4] = t, g1, g2, g3
              end
              s[KEPT] = math.min(p - 1, s[KEPT])
            else
              local x = #added
              added[x + 1], added[x + 2], added[x + 3], added[x + 4] = place, a1, a2, a3
              s[BOOKED] = s[BOOKED] + 1
            end
            s[ADDED], s[CALM] = added, math.min(s[CALM], place)
            local u1, u2, u3 = s[1], s[2], s[3]
            local p1, p2, p3, i = 0, 0, 0, 1
            if booked then
              u1, u2, u3, i = s[AHEAD], s[AHEAD + 1], s[AHEAD + 2], s[AHEAD_FROM]
              p1, p2, p3 = s[PEAK], s[PEAK + 1], s[PEAK + 2]
            end
            if booked and place < s[LAST] then
              -- Its window holds no more than that of the booking before it, or than the one that ends now; those of the bookings after it hold
              -- it too. So the fullest holds at most this.
              p1, p2, p3 = math.max(p1, s[1]) + a1, math.max(p2, s[2]) + a2, math.max(p3, s[3]) + a3
            else
              -- the last: what its window holds
              while i <= n do
                local t, g1, g2, g3 = entry_at(k, s, i, 1)
                if t > place - w then
                  break
                end
                u1, u2, u3, i = u1 - g1, u2 - g2, u3 - g3, i + 1
              end
              if place < now + w then
                p1, p2, p3 = math.max(p1, u1 + a1), math.max(p2, u2 + a2), math.max(p3, u3 + a3)
              else
                s[CALM] = math.min(s[CALM], place - w + 1)
              end
              s[LAST] = place
            end
            if place < now + w and place - w >= s[NEWEST] and s[NEWEST] < now then
              -- a time that joins the newest entry would bring it into the window of this booking
              s[MERGE] = 0
            end
            s[PEAK], s[PEAK + 1], s[PEAK + 2] = p1, p2, p3
            s[AHEAD], s[AHEAD + 1], s[AHEAD + 2], s[AHEAD_FROM] = u1 + a1, u2 + a2, u3 + a3, i
          end
        end
        answers[replied] = pack('<BI7I7I7I6', 0, s[1], s[2], s[3], s[LAST])
      end
    end
    if not carrier then
      -- no ledger carries it: a hash does, with what is charged on its home, or else on its first ledger
      local _, a1, a2, a3, life = 0, 0, 0, 0, 60000
      if count > 0 then
        _, a1, a2, a3 = read(ASK_AMOUNTS, asked, from)
      end
      for at = from, till, ASK_SIZE do
        local k = read('<I2', asked, at)
        if k == home then
          _, a1, a2, a3 = read(ASK_AMOUNTS, asked, at)
        end
        life = window[k] > life and window[k] or life
      end
      if not recorded then
        recorded, recorded_in, lasts_until = {}, {}, {}
      end
      recorded[id], recorded_in[id] = { id, place, 0, a1, a2, a3 }, records_key
      lasts_until[records_key] = math.max(lasts_until[records_key] or 0, place + life)
    end
    last_place = place > last_place and place or last_place
  end
