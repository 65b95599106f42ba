-- lib/fair/gather.lua: what a request takes of pools that are shared fairly, by summaries: goes on in lib/fair/stand.lua, once per pool, and
-- ends in lib/fair/lower.lua. A part of the loop in acquire.lua.

  local standings
  if shares > 0 then
    -- Logs whose sums are not those of now, and those with bookings, are for lib/log.lua. The table has room for one pool: most have one.
    usual, standings = not stale and not lined, { false, false, 0, 0, false, 0, 0 }
    for share = 1, usual and shares or 0 do
      local p, kp, place, pool_ask, user_ask, cost, weight, limit, notes, member, after = read(FAIR, args, next_position)
      next_position = after
      local pool_at, user_at = from + (pool_ask - 1) * ASK_SIZE, from + (user_ask - 1) * ASK_SIZE
      local sp, su, of_user = logs[kp], false, 0
      if user_at == carrier_at then
        of_user = place == 1 and used1 or place == 2 and used2 or used3
      else
        su = logs[read('<I2', asked, user_at)]
        of_user = su and su[place]
      end
      if not sp or not of_user then
        usual = false
        break
      end
      local w, used = window[kp], sp[place]
