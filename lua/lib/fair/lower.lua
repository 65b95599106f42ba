-- lib/fair/lower.lua: the heavy find less room in the pool, have a share of their own, and book a little ahead only. After
-- lib/fair/stand.lua in the loop of acquire.lua.

      if not pool then
        usual = false
        break
      end
      if heavy then
        if asked == args then
          -- the asks of this request alone, to be changed
          asked, pool_at, user_at = sub(args, from, till), pool_at - from + 1, user_at - from + 1
          carrier_at, from, till = carrier_at - from + 1, 1, till - from + 1
        end
        local x, y = pool_at + 14 + place * 6, user_at + 14 + place * 6
        local of_pool = math.max(math.min(read('<I6', asked, x), pool[LIMIT] - reserve - cost), 0)
        local own = math.max(math.min(read('<I6', asked, y), share_now - cost), 0)
        asked = sub(asked, 1, x - 1) .. pack('<I6', of_pool) .. sub(asked, x + 6)
        asked = sub(asked, 1, y - 1) .. pack('<I6', own) .. sub(asked, y + 6)
        max_wait = math.min(max_wait, math.floor(w / HEAVY_PARTS))
        tight = tight or used > of_pool or su and of_user > own
        fits = fits and not tight and of_user <= own
        if not su then
          bound1, bound2, bound3 = place == 1 and own or bound1, place == 2 and own or bound2, place == 3 and own or bound3
        end
      end
      -- a pool keeps a light user out only where it is full itself, whatever else its ledger counts
      local full_at = not heavy and used > read('<I6', asked, pool_at + 14 + place * 6) and pool_ask or -1
      local x = share * 7 - 7
      standings[x + 1], standings[x + 2], standings[x + 3], standings[x + 4] = pool, heavy, cost, used
      standings[x + 5], standings[x + 6], standings[x + 7] = held, full_at, share_now
    end
    if not usual then
      break
    end
  end
  local place, exact, setter = now, now, 0
