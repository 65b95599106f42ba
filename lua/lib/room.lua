-- lib/room.lua: when a request that does not fit now will, and which place in line it takes: the middle of the loop in acquire.lua.
--
-- Each ledger asked has room from some time on and not before: a quiet one and a log without bookings once enough has left; a log with
-- bookings once enough has left behind the last of them whose window would be overrun. So the time is the latest of theirs. The windows of
-- bookings are looked at from the last one back: AHEAD is what the last one holds, and AHEAD_FROM its first entry.
-- COST  per 16 entries looked at 1 GETRANGE
-- MODEL src/calendar/line.rs and ledger.rs; tests/it/model.rs holds them together

  if not fits then
    -- The carrier's records leave one by one: per resource, when enough has left.
    local carrier1, carrier2, carrier3, carrier_free_at = 0, 0, 0, now
    do
      local raw, x, u1, u2, u3 = quiet[carrier], first, used1, used2, used3
      while u1 > bound1 or u2 > bound2 or u3 > bound3 do
        local stamp, g1, g2, g3 = read('<I6I4I4I4', raw, x + 16)
        carrier_free_at = (stamp - stamp % 4) / 4 + window[carrier]
        carrier1 = u1 > bound1 and carrier_free_at or carrier1
        carrier2 = u2 > bound2 and carrier_free_at or carrier2
        carrier3 = u3 > bound3 and carrier_free_at or carrier3
        u1, u2, u3, x = u1 - g1, u2 - g2, u3 - g3, x + RECORD_SIZE
      end
    end
    local setter_window, in_logs = 0, tight or lined or stale
    if not in_logs then
      exact, setter, setter_window = carrier_free_at, (carrier_at - from) / ASK_SIZE + 1, window[carrier]
    end
    if (in_logs or max_wait > 0) and not entry_at then
      -- Blocks of 16 entries as last read, by who reads: 1 goes forward, -1 and -2 back.
      local blocks, blocks_of, blocks_from = {}, {}, {}
      -- Entry i of log k, by its number in the list: its time and three amounts.
      function entry_at(k, s, i, reader)
        if i == s[PAST] then
          return s[NEWEST], s[NEWEST + 1], s[NEWEST + 2], s[NEWEST + 3]
        end
        if i > s[KEPT] then
          local added, x = s[ADDED], (i - s[KEPT]) * 4
          return added[x - 3], added[x - 2], added[x - 1], added[x]
        end
        local first_entry = blocks_from[reader]
        if k ~= blocks_of[reader] or i < first_entry or i > first_entry + 15 then
          first_entry = reader > 0 and i or i > 15 and i - 15 or 1
          local x = s[BASE] + first_entry * ENTRY_SIZE
          blocks_of[reader], blocks_from[reader] = k, first_entry
          blocks[reader] = call('GETRANGE', keys[k + 1], format('%d', x - ENTRY_SIZE), format('%d', x + 15 * ENTRY_SIZE - 1))
        end
        return read(ENTRY, blocks[reader], (i - first_entry) * ENTRY_SIZE + 1)
      end
    end
    for round = 1, lined and 2 or in_logs and 1 or 0 do
      local index = 0
      for at = from, till, ASK_SIZE do
        local k, _, _, _, b1, b2, b3 = read(ASK_SUMMARY, asked, at)
        local s, w, latest = logs[k], window[k], now
        index = index + 1
        if not s then
          latest = carrier_free_at
        elseif not stale and s[LAST] <= s[NEWEST] and s[1] <= b1 and s[2] <= b2 and s[3] <= b3 then
          s[WALK] = false
        else
          if not s[PAST] then
            local frozen, past, booked = read('<BI2I2', s[RAW], #s[RAW] - TAIL_SIZE + 25)
            s[PAST], s[BOOKED], s[BASE], s[KEPT] = past, booked, frozen * RECORD_SIZE, past + booked
          end
          local behind, walk = s[LAST] > s[NEWEST], s[WALK]
          -- equal questions to one log are answered once
          if not (walk and walk[4] == b1 and walk[5] == b2 and walk[6] == b3) then
            local last_overrun = 0
            local u1, u2, u3, i, n = s[1], s[2], s[3], 1, s[PAST] + s[BOOKED]
            local booking = n
            if behind then
              u1, u2, u3, i = s[AHEAD], s[AHEAD + 1], s[AHEAD + 2], s[AHEAD_FROM]
              while u1 <= b1 and u2 <= b2 and u3 <= b3 and booking > s[PAST] do
                local _, g1, g2, g3 = entry_at(k, s, booking, -1)
                u1, u2, u3, booking = u1 - g1, u2 - g2, u3 - g3, booking - 1
                -- entries that the window of the booking before it still holds
                local since = entry_at(k, s, booking, -1) - w
                while booking > s[PAST] and i > 1 do
                  local t, h1, h2, h3 = entry_at(k, s, i - 1, -2)
                  if t <= since then
                    break
                  end
                  u1, u2, u3, i = u1 + h1, u2 + h2, u3 + h3, i - 1
                end
              end
              if booking > s[PAST] then
                last_overrun = entry_at(k, s, booking, -1)
                -- a place before it might be free
                usual = usual and last_overrun < now + w
              else
                u1, u2, u3, i = s[1], s[2], s[3], 1
              end
            elseif s[AHEAD_FROM] then
              i = s[AHEAD_FROM]
            elseif now >= s[CALM] and s[LAST] + w > now then
              -- what has left since the summary was made
              local t, g1, g2, g3 = entry_at(k, s, i, 1)
              while t + w <= now do
                u1, u2, u3, i = u1 - g1, u2 - g2, u3 - g3, i + 1
                t, g1, g2, g3 = entry_at(k, s, i, 1)
              end
              s[1], s[2], s[3], s[AHEAD_FROM] = u1, u2, u3, i
            end
            local over1, over2, over3, t1, t2, t3 = u1 > b1, u2 > b2, u3 > b3, 0, 0, 0
            -- from whichever end fewer entries must be looked at
            local leaving, staying = 0, 0
            if over1 then
              leaving, staying = (u1 - b1) / u1, b1 / u1
            end
            if over2 then
              leaving, staying = math.max(leaving, (u2 - b2) / u2), math.max(staying, b2 / u2)
            end
            if over3 then
              leaving, staying = math.max(leaving, (u3 - b3) / u3), math.max(staying, b3 / u3)
            end
            if leaving <= staying or booking < n then
              -- enough has left before the next booking starts, as that is not overrun
              while over1 or over2 or over3 do
                local t, g1, g2, g3 = entry_at(k, s, i, 1)
                t, u1, u2, u3, i = t + w, u1 - g1, u2 - g2, u3 - g3, i + 1
                if over1 and u1 <= b1 then
                  t1, over1 = t, false
                end
                if over2 and u2 <= b2 then
                  t2, over2 = t, false
                end
                if over3 and u3 <= b3 then
                  t3, over3 = t, false
                end
              end
            else
              u1, u2, u3, i = 0, 0, 0, n
              while over1 or over2 or over3 do
                local t, g1, g2, g3 = entry_at(k, s, i, -1)
                u1, u2, u3, i = u1 + g1, u2 + g2, u3 + g3, i - 1
                if over1 and u1 > b1 then
                  t1, over1 = t + w, false
                end
                if over2 and u2 > b2 then
                  t2, over2 = t + w, false
                end
                if over3 and u3 > b3 then
                  t3, over3 = t + w, false
                end
              end
            end
            walk = { t1, t2, t3, b1, b2, b3, last_overrun }
            s[WALK] = walk
          end
          latest = math.max(walk[1], walk[2], walk[3])
          if round == 1 and exact < walk[7] then
            latest = walk[7]
          end
        end
        if latest > exact then
          exact = latest
          if w > setter_window then
            setter, setter_window = index, w
          end
        end
      end
    end
    if not usual or exact == now and (stale or ripe) or max_wait > 0 and stale then
      break
    end
    if exact > now then
      place = nil
    end
    if not place and max_wait > 0 then
      -- on the grid of the ledger that sets the time, if that is not too late
      local step, crowded, horizon = 1, false, 0
      for parts = PARTS, 1, -1 do
        if setter_window % parts == 0 then
          step = setter_window / parts
          break
        end
      end
      local index = 0
      for at = from, till, ASK_SIZE do
        local s = logs[read('<I2', asked, at)]
        index = index + 1
        crowded = crowded or s and s[BOOKED] and s[BOOKED] >= BOOKED_MAX
        if index == setter then
          horizon = read('<I6', asked, at + 38)
        end
      end
      place = math.ceil(exact / step) * step
      if place - now > max_wait and not crowded then
        place = exact
      end
      if place - now > max_wait or place - now > horizon then
        place = nil
      end
      for at = from, till, ASK_SIZE do
        local k = read('<I2', asked, at)
        local s = logs[k]
        if place and s then
          -- a log that cannot be booked without a fold; a place before the last of which more than sums would have to be known
          local past = s[PAST] or read('<I2', s[RAW], #s[RAW] - TAIL_SIZE + 26)
          usual = usual and (s[MERGE] > 0 or past <= KEEP)
            and (s[LAST] <= s[NEWEST] or place >= s[LAST] or place > s[LAST] - window[k] and place < now + window[k])
        end
      end
      if not usual then
        break
      end
    end
    if not place then
      replied, answered, position = replied + 1, answered + 1, next_position
      answers[replied] = pack('<BI6B', DENIED, exact, setter)
      for at = from, till, ASK_SIZE do
        replied = replied + 1
        if at == carrier_at then
          -- of a quiet ledger the last charge; a tombstone, or what was settled to nothing, is none
          local last_at, raw = 0, quiet[carrier]
          for x = raw and #raw - TRAILER_SIZE - RECORD_SIZE + 1 or 0, first, -RECORD_SIZE do
            local stamp, c1, c2, c3 = read('<I6I4I4I4', raw, x + 16)
            if c1 + c2 + c3 > 0 then
              last_at = (stamp - stamp % 4) / 4
              break
            end
          end
          local short = (carrier1 == exact and 1 or 0) + (carrier2 == exact and 2 or 0) + (carrier3 == exact and 4 or 0)
          answers[replied] = pack('<BI7I7I7I6', short, used1, used2, used3, last_at)
        else
          local k = read('<I2', asked, at)
          local s = logs[k]
          local walk, last_at = in_logs and s[WALK], s[LAST]
          if last_at + window[k] <= now then
            last_at = 0
          end
          local short = 0
          if walk then
            short = (walk[1] == exact and 1 or 0) + (walk[2] == exact and 2 or 0) + (walk[3] == exact and 4 or 0)
          end
          answers[replied] = pack('<BI7I7I7I6', short, s[1], s[2], s[3], last_at)
        end
      end
    end
  end
