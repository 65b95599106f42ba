-- lib/lease.lua: slots for calls under way. After lib/read.lua in `acquire` and `settle`.
--
-- A set of slots is a sorted set: a lease is its reservation's id, by when it expires; and `token`, by the last fencing token, negative so that
-- it is never taken for a lease.
-- COST  per set 1 ZCOUNT and 1 ZSCORE, 1 ZSCORE more for an id that may be known, 1 ZRANGEBYSCORE where it is full; 1 ZREMRANGEBYSCORE,
--       2 ZADD and 1 PTTL where a slot is taken, 1 PEXPIRE where the set would not last, 1 ZREM where one is freed
-- TTL   two leases, at least 75 s, and up to a quarter more, so that it is seldom renewed
-- MODEL src/calendar/slots.rs; tests/it/model.rs holds the two together
--
-- The functions come into being only in a call that has slots.

local SLOTS_SIZE = 10
-- The time as text, which is made once. A whole number is text by '%d' in a third of what '%.0f' takes.
local slots_in_use, take_slots, free_slots, now_text
if slots_asked > 0 then
  local SLOTS, LEASES_OF_MS = '<I2I4I4', 1024
  slots = {}

  -- The set k: how many of its leases are live, and its last token; nil if its key holds something else.
  function slots_in_use(k)
    local set = slots[k]
    if not set then
      local key = keys[slots_from + k]
      now_text = now_text or format('%d', now)
      local live = try('ZCOUNT', key, '(' .. now_text, '+inf')
      if type(live) == 'table' then
        return nil
      end
      local last = call('ZSCORE', key, 'token')
      set = { live = live, token = last and -tonumber(last) or 0, taken = {}, count = 0, first_at = false, life = 0, changed = false }
      slots[k] = set
    end
    return set
  end

  -- Takes a slot for `id` in each of n sets, or in none. 0 and a fencing token; or which set is full, and when its next lease expires; or
  -- nil if a key holds something else. A lease that `id` has already is renewed, if `known`.
  function take_slots(id, at, n, known)
    local token, mine = now * LEASES_OF_MS, {}
    for i = 1, n do
      local k, amount = read(SLOTS, args, at + i * SLOTS_SIZE - SLOTS_SIZE)
      local key, set = keys[slots_from + k], slots_in_use(k)
      if not set then
        return nil
      end
      local held = known and (set.taken[id] or call('ZSCORE', key, id))
      mine[i] = held and tonumber(held) > now or set.taken[id]
      if not mine[i] and set.live >= amount then
        -- what this call has renewed, the key does not show yet
        local first_at, most = set.first_at, format('%d', set.count + 1)
        local leases = call('ZRANGEBYSCORE', key, '(' .. now_text, '+inf', 'WITHSCORES', 'LIMIT', '0', most)
        for x = 1, #leases, 2 do
          if not set.taken[leases[x]] then
            first_at = math.min(first_at or leases[x + 1] + 0, leases[x + 1] + 0)
            break
          end
        end
        return i, first_at or now
      end
      token = math.max(token, set.token + 1)
    end
    for i = 1, n do
      local k, _, lease = read(SLOTS, args, at + i * SLOTS_SIZE - SLOTS_SIZE)
      local set = slots[k]
      if not mine[i] then
        set.live = set.live + 1
      end
      set.count = set.count + 1
      set.taken[id], set.token, set.life, set.changed = now + lease, token, math.max(set.life, lease), true
      set.first_at = math.min(set.first_at or now + lease, now + lease)
    end
    return 0, token
  end

  -- Frees the slots of `id` in n sets. 0; or 1, and nothing is freed, if `checked` and a lease has expired; or nil if a key holds something
  -- else.
  function free_slots(id, at, n, checked)
    for i = 1, n do
      local k = read('<I2', args, at + i * 2 - 2)
      local expires_at = try('ZSCORE', keys[slots_from + k], id)
      if type(expires_at) == 'table' then
        return nil
      end
      local set = slots[k]
      if checked and (not expires_at or tonumber(expires_at) <= now or set and set.freed[id]) then
        return 1
      end
    end
    for i = 1, n do
      local k = read('<I2', args, at + i * 2 - 2)
      slots[k] = slots[k] or { freed = {} }
      slots[k].freed[id] = true
    end
    return 0
  end
end
