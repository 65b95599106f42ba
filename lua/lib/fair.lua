-- lib/fair.lua: pools that users share fairly. After lib/read.lua in `acquire`.
--
-- ARGV  after the ledgers, per pool: ledger I2, place of the resource in it I1, limit I6
-- COST  per pool 1 GET, and 1 SET where it changes; 2 ZADD for a request that notes who asks; 2 ZRANGEBYSCORE and 2 PEXPIRE a second
-- TTL   1.25 windows, at least 75 s, renewed every second and with each new user
-- MODEL src/calendar/fair.rs, function by function: the same operations on the same numbers in the same order give the same bits;
--       tests/it/model.rs holds the two together
--
-- The functions come into being only in a call that has pools. The index of who asked is written before the decision, as its keys might
-- hold something else; it is the one thing that a denial leaves behind, with the state of the pool.

local POOL, POOL_SIZE, POOL_VERSION = '<dI6BI6I6B', 28, 1
local FAIR, FAIR_ASKED = '<I2BBI2BI2c0', '<I2BI6'
local RESERVE, EPSILON, GAIN, RISE, BETA = 0.02, 0.02, 7, 0.05, 0.3
local TICK_MS, HEAVY_PARTS, PRUNED_MAX = 1000, 16, '100'

local stand, conclude
if pools_asked > 0 then
  pools = {}
  local floor, max, min = math.floor, math.max, math.min

  -- Members that have not asked for a window leave an index; the sum of their weights, or nil if its key holds something else.
  local function prune(key, until_at)
    local gone = try('ZRANGEBYSCORE', key, '-inf', format('%.0f', until_at), 'LIMIT', '0', PRUNED_MAX)
    if gone.err then
      return nil
    end
    local weight = 0
    for i = 1, #gone do
      weight = weight + read('>I2', gone[i])
    end
    if #gone > 0 then
      call('ZREM', key, unpack(gone))
    end
    return weight
  end

  -- Notes who asked; the weight that this adds to an index, or nil.
  local function note(key, member, weight, life)
    local added = try('ZADD', key, format('%.0f', now), member)
    if type(added) == 'table' then
      return nil
    end
    if added == 1 then
      call('PEXPIRE', key, life)
      return weight
    end
    return 0
  end

  -- The pool p, with its users counted and its level raised if that was not done within a second. `used` is what its window holds. nil
  -- if one of its keys holds something else.
  local function pool_at(p, used, w)
    local pool = pools[p]
    if not pool then
      local k, place, limit = read(FAIR_ASKED, args, pools_position + (p - 1) * 9)
      local key = ledgers + 3 * p - 1
      local raw, level, next_at, flags, users, heavy, version = try('GET', keys[key]), 0, 0, 0, 0, 0, POOL_VERSION
      if raw then
        if #raw ~= POOL_SIZE then
          return nil
        end
        level, next_at, flags, users, heavy, version = read(POOL, raw)
      end
      if version ~= POOL_VERSION then
        return nil
      end
      pool = {
        k = k, place = place, limit = limit, key = key, level = level > 0 and level, next_at = next_at, users = users, heavy = heavy,
        pressed = flags % 2 == 1, held = flags > 1, life = format('%.0f', math.ceil(max(w * 1.25, 75000))), changed = false,
      }
      pools[p] = pool
    end
    if now >= pool.next_at then
      local left, heavy_left = prune(keys[pool.key + 1], now - w), prune(keys[pool.key + 2], now - w)
      if not left or not heavy_left then
        return nil
      end
      call('PEXPIRE', keys[pool.key + 1], pool.life)
      call('PEXPIRE', keys[pool.key + 2], pool.life)
      pool.users, pool.heavy = pool.users - left, pool.heavy - heavy_left
      if pool.users == 0 then
        -- nobody has asked for a window
        pool.level = false
      end
      if pool.level then
        local level, slack = pool.level, pool.limit * (1 - EPSILON) - used
        if pool.held and not pool.pressed and slack > 0 then
          level = level + RISE * slack / max(pool.heavy, 1)
        end
        pool.level = level < pool.limit and level
      end
      pool.next_at, pool.pressed, pool.held, pool.changed = now + TICK_MS, false, false, true
    end
    return pool
  end

  -- How a user stands in pool p: whether heavy, the share, the reserve, whether the level holds the request back; nil if a key holds
  -- something else. `used` is what the pool holds, `of_user` what the user has of it, booked places included.
  function stand(p, used, w, of_user, cost, weight, notes, user)
    local pool = pool_at(p, used, w)
    if not pool then
      return nil
    end
    local member = pack('>I2', weight) .. user
    if notes then
      local added = note(keys[pool.key + 1], member, weight, pool.life)
      if not added then
        return nil
      end
      pool.users, pool.changed = pool.users + added, pool.changed or added > 0
    end
    local limit, all = pool.limit, max(pool.users, weight)
    local equal, level = limit * weight / all, pool.level and pool.level * weight
    local light = of_user == 0 or of_user + cost <= max(equal, level and BETA * level or 0)
    local share = level and min(floor(max(level, equal)), limit) or limit
    local reserve = 0
    if not light then
      if all > weight then
        reserve = max(floor(limit * RESERVE), 1)
      end
      if notes then
        local added = note(keys[pool.key + 2], member, weight, pool.life)
        if not added then
          return nil
        end
        pool.heavy, pool.changed = pool.heavy + added, pool.changed or added > 0
      end
    end
    return pool, not light, share, reserve, not light and of_user + cost > share
  end

  -- What the decision on a request means for its pools, and how its user stands there: the end of its answer. `setter` is the ledger
  -- that kept it from starting now, among those asked; 0 if none did.
  function conclude(standings, setter)
    for _, standing in ipairs(standings) do
      local pool, heavy, cost, used = standing[1], standing[2], standing[3], standing[4]
      if standing[5] and not pool.held then
        pool.held, pool.changed = true, true
      end
      if not heavy and setter == standing[6] and pool.heavy > 0 then
        local level, limit = pool.level or used / pool.heavy, pool.limit
        level = level - GAIN * cost * level / limit
        pool.level, pool.pressed, pool.changed = max(max(level, limit / max(pool.users, 1)), 1), true, true
      end
      replied = replied + 1
      answers[replied] = pack('<BI6', heavy and 1 or 0, standing[7])
    end
  end

  function write_pools()
    for _, pool in pairs(pools) do
      if pool.changed then
        local flags = (pool.pressed and 1 or 0) + (pool.held and 2 or 0)
        local value = pack(POOL, pool.level or 0, pool.next_at, flags, pool.users, pool.heavy, POOL_VERSION)
        call('SET', keys[pool.key], value, 'PX', pool.life)
      end
    end
  end
end
