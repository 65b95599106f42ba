-- lib/fair/conclude.lua: what a decision means for the pools of its request, and how the user stands in them; then the token and the live
-- leases of its slots: the end of the answer, and of the loops in acquire.lua and lib/acquire_in_full.lua. `setter` is the ledger that kept
-- it from starting now; 0 if none did.
--
-- MODEL  src/calendar/fair.rs: `press` and `hold`

  if standings then
    local LEVEL, USERS, HEAVY, PRESSED, HELD, CHANGED, LIMIT, GAIN = 1, 3, 4, 5, 6, 7, 9, 7
    for x = 1, #standings, 7 do
      local pool, heavy, cost = standings[x], standings[x + 1], standings[x + 2]
      if standings[x + 4] and not pool[HELD] then
        pool[HELD], pool[CHANGED] = true, true
      end
      if not heavy and setter == standings[x + 5] and pool[HEAVY] > 0 then
        -- a light user found the pool full
        local level, limit = pool[LEVEL], pool[LIMIT]
        if level == 0 then
          level = standings[x + 3] / pool[HEAVY]
        end
        level = level - GAIN * cost * level / limit
        pool[LEVEL] = math.max(level, limit / math.max(pool[USERS], 1), 1)
        pool[PRESSED], pool[CHANGED] = true, true
      end
      replied = replied + 1
      answers[replied] = pack('<BI6', heavy and 1 or 0, standings[x + 6])
    end
  end
  if sets > 0 then
    replied = replied + 1
    answers[replied] = pack('<I7', token)
    for i = 1, sets do
      local set = slots_in_use(read('<I2', args, sets_at + i * SLOTS_SIZE - SLOTS_SIZE))
      replied = replied + 1
      answers[replied] = pack('<I4', set and set.live or 0)
    end
  end
end
