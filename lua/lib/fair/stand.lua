-- lib/fair/stand.lua: how a user stands in a pool that is shared fairly. Twice in `acquire`: after lib/fair/gather.lua, which gathers what it
-- needs from summaries, and after lib/fair/gather_in_full.lua. Plain statements, as functions cost time even where they are not called.
--
-- Needs p, w, limit, used (what the window of the pool holds), of_user (what the user has of it, booked places included), cost, weight, notes,
-- member. Gives pool (false if one of its keys holds something else), heavy, share_now, reserve, and held: the level holds the request back.
--
-- COST  per pool 1 GET, and 1 SET where it changes; 1 or 2 ZADD for a request that notes who asks; a tick 2 ZRANGEBYSCORE, 2 ZREM, 2 PEXPIRE
-- TTL   1.25 windows, at least 75 s, renewed every tick and with each new user
-- MODEL src/calendar/fair.rs, function by function: the same operations on the same numbers in the same order give the same bits;
--       tests/it/model.rs holds the two together
--
-- The index of who asked is written before the decision, as its keys might hold something else. It is the one thing that a denial leaves
-- behind, with the state of the pool.

    -- A pool is { level (0: none), when it ticks next, weight of its users, weight of the heavy, a light user was refused, the level held
    -- somebody back, there is something to write, place of its first key, limit, window }.
    local LEVEL, NEXT, USERS, HEAVY, PRESSED, HELD, CHANGED, KEY, LIMIT, WINDOW = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    local pool, life = pools[p], false
    if not pool then
      local key = ledgers + 3 * p - 1
      local raw = try('GET', keys[key])
      if not raw then
        pool = { 0, 0, 0, 0, false, false, true, key, 0, w }
      elseif #raw ~= POOL_SIZE or byte(raw, POOL_SIZE) ~= VERSION then
        pool = false
      else
        local level, next_at, flags, users, heavy = read(POOL, raw)
        pool = { level, next_at, users, heavy, flags % 2 == 1, flags > 1, false, key, 0, w }
      end
      if pool then
        pools[p] = pool
      end
    end
    if pool then
      -- a control may give one user another limit
      pool[LIMIT] = limit
    end
    if pool and now >= pool[NEXT] then
      -- sixty times a window the users are counted, and the level may rise
      local PRUNED_MAX = '1000'
      -- longer than the state, which is written more often
      life = format('%.0f', math.ceil(math.max(w * 1.25, 75000)) + 2000)
      for index = USERS, HEAVY do
        local key = keys[pool[KEY] + index - NEXT]
        local gone = try('ZRANGEBYSCORE', key, '-inf', format('%.0f', now - w), 'LIMIT', '0', PRUNED_MAX)
        if gone.err then
          pool = false
          break
        end
        for i = 1, #gone do
          pool[index] = math.max(pool[index] - read('>I2', gone[i]), 0)
        end
        if #gone > 0 then
          call('ZREM', key, unpack(gone))
        end
        call('PEXPIRE', key, life)
      end
    end
    if pool and life then
      local EPSILON, RISE, tick = 0.02, 0.05, math.min(math.max(math.floor(w / 60), 100), 1000)
      local level = pool[LEVEL]
      if pool[USERS] == 0 then
        -- nobody has asked for a window
        level = 0
      elseif level > 0 then
        local slack = limit * (1 - EPSILON) - used
        if pool[HELD] and not pool[PRESSED] and slack > 0 then
          level = level + RISE * slack / math.max(pool[HEAVY], 1)
        end
        if level >= limit then
          level = 0
        end
      end
      pool[LEVEL], pool[NEXT], pool[PRESSED], pool[HELD], pool[CHANGED] = level, now + tick, false, false, true
    end
    local heavy, share_now, reserve, held = false, 0, 0, false
    -- first the user is counted, then judged, and counted as heavy
    for index = USERS, not pool and 0 or notes > 0 and HEAVY or USERS do
      if index == USERS and notes == 2 or heavy and notes > 0 then
        local key = keys[pool[KEY] + index - NEXT]
        local added = try('ZADD', key, format('%d', now), member)
        if added == 1 then
          call('PEXPIRE', key, life or format('%.0f', math.ceil(math.max(w * 1.25, 75000)) + 2000))
          pool[index], pool[CHANGED] = pool[index] + weight, true
        elseif added ~= 0 and not find(added.err, 'OOM', 1, true) then
          -- a Redis out of memory refuses the charge too, and says why
          pool = false
          break
        end
      end
      if index == USERS then
        local RESERVE, BETA = 0.02, 0.3
        local level, all = pool[LEVEL] * weight, pool[USERS]
        if all < weight then
          all = weight
        end
        local equal = limit * weight / all
        local light_to = BETA * level > equal and BETA * level or equal
        heavy = of_user > 0 and of_user + cost > light_to
        share_now = limit
        if level > 0 then
          share_now = math.min(math.floor(math.max(level, equal)), limit)
        end
        if heavy then
          held = of_user + cost > share_now
          if all > weight then
            reserve = math.max(math.floor(limit * RESERVE), 1)
          end
        end
      end
    end
