-- lib/fair/gather.lua: what a request takes of pools that are shared fairly, by summaries: goes on in lib/fair/stand.lua, once per pool, and
-- ends in lib/fair/lower.lua. A part of the loop in acquire.lua.

  local standings
  if shares > 0 then
    -- logs whose sums are not those of now, and those with bookings, are for lib/log.lua
    usual, standings = not stale and not lined, {}
    for share = 1, usual and shares or 0 do
      local p, pool_ask, user_ask, weight, limit, notes, user
      p, pool_ask, user_ask, weight, limit, notes, user, next_position = read(FAIR, args, next_position)
      local pool_at, user_at = from + (pool_ask - 1) * ASK_SIZE, from + (user_ask - 1) * ASK_SIZE
      local place = byte(args, pools_position + p * 3 - 1)
      local kp, ku, cost = read('<I2', asked, pool_at), read('<I2', asked, user_at), read('<I6', asked, pool_at + place * 6 - 4)
      local sp, su = logs[kp], logs[ku]
      if not sp or not (su or ku == carrier) then
        usual = false
        break
      end
      local w, used, of_user = window[kp], sp[place], su and su[place] or place == 1 and used1 or place == 2 and used2 or used3
