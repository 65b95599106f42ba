-- lib/line.lua: when a cost fits in several open logs at once, and which place in line it takes. After lib/log.lua in `acquire`.
--
-- The functions come into being only when `use_line` is called: see lib/log.lua, which has what an open log is.
-- MODEL  src/calendar/line.rs and ledger.rs, function by function; tests/it/model.rs holds them together

local earliest, place_in_line, short_at

local function use_line()
  local ceil, min = math.ceil, math.min

  -- The sums over (x - window, x].
  local function sum_at(log, x)
    if x == now then
      return log.used[1], log.used[2], log.used[3]
    end
    local F, from = log.F, x - log.window
    local s1, s2, s3 = 0, 0, 0
    for i = log.n * 4 - 3, 1, -4 do
      local at = F[i]
      if at <= from then
        break
      end
      if at <= x then
        s1, s2, s3 = s1 + F[i + 1], s2 + F[i + 2], s3 + F[i + 3]
      end
    end
    return s1, s2, s3
  end

  local function is_over(sum, bound)
    return sum > bound and bound ~= UNBOUNDED
  end

  -- Calls visit(at, s1, s2, s3) for the times in (x, x + window), last first, until it returns true; returns that time.
  local function bookings_after(log, x, visit)
    local F, till = log.F, x + log.window
    local i = log.n
    while i > 0 and F[i * 4 - 3] >= till do
      i = i - 1
    end
    local low, s1, s2, s3 = i * 4 - 3, 0, 0, 0
    while i > 0 do
      local e = i * 4 - 3
      local at = F[e]
      if at <= x then
        return nil
      end
      local from = at - log.window
      while low > 0 and F[low] > from do
        s1, s2, s3 = s1 + F[low + 1], s2 + F[low + 2], s3 + F[low + 3]
        low = low - 4
      end
      if visit(at, s1, s2, s3) then
        return at
      end
      s1, s2, s3 = s1 - F[e + 1], s2 - F[e + 2], s3 - F[e + 3]
      i = i - 1
    end
  end

  -- The first time from x on at which the log could take what is asked, looking one step ahead; x itself if it fits there.
  local function raised(log, x, ask)
    local b1, b2, b3 = ask[5], ask[6], ask[7]
    local n = log.n
    if n > 0 and log.F[n * 4 - 3] > x then
      local overrun = bookings_after(log, x, function(_, s1, s2, s3)
        return is_over(s1, b1) or is_over(s2, b2) or is_over(s3, b3)
      end)
      if overrun then
        return overrun
      end
    end
    local s1, s2, s3 = sum_at(log, x)
    local over1, over2, over3 = is_over(s1, b1), is_over(s2, b2), is_over(s3, b3)
    if not (over1 or over2 or over3) then
      return x
    end
    local F, w = log.F, log.window
    local i, high = 1, 1
    while i <= n and F[i * 4 - 3] + w <= x do
      i = i + 1
    end
    high = i
    while high <= n and F[high * 4 - 3] <= x do
      high = high + 1
    end
    while i <= n do
      local e = i * 4 - 3
      local at = F[e] + w
      while high <= n and F[high * 4 - 3] <= at do
        local h = high * 4 - 3
        s1, s2, s3 = s1 + F[h + 1], s2 + F[h + 2], s3 + F[h + 3]
        high = high + 1
      end
      s1, s2, s3 = s1 - F[e + 1], s2 - F[e + 2], s3 - F[e + 3]
      over1, over2, over3 = over1 and s1 > b1, over2 and s2 > b2, over3 and s3 > b3
      if not (over1 or over2 or over3) then
        return at
      end
      i = i + 1
    end
    return x
  end

  -- The first time from x on at which every log has room, and which of them sets it: of those that raised the time, the first with the
  -- longest window; nil if it fits at once. `asks` are { k, three amounts, three bounds, horizon, log }.
  function earliest(asks, x)
    local setter
    repeat
      local start = x
      for i = 1, #asks do
        local ask = asks[i]
        local at = raised(ask.log, x, ask)
        if at > x then
          x = at
          if not setter or ask.log.window > asks[setter].log.window then
            setter = i
          end
        end
      end
    until x == start
    return x, setter
  end

  local function grid(w)
    for parts = PARTS, 1, -1 do
      if w % parts == 0 then
        return w / parts
      end
    end
  end

  -- A place within max_wait of now, given the earliest time and the log that sets it; nil if there is none to promise.
  function place_in_line(asks, max_wait, exact, setter)
    if not setter then
      return now
    end
    local step, at = grid(asks[setter].log.window), exact
    for _ = 1, 2 * PARTS do
      at = ceil(at / step) * step
      local again = earliest(asks, at)
      if again == at then
        break
      end
      at = again
    end
    if at - now > max_wait then
      local crowded = false
      for i = 1, #asks do
        crowded = crowded or asks[i].log.n - asks[i].log.past >= BOOKED_MAX
      end
      if not crowded then
        at = exact
      end
    end
    if at - now <= min(max_wait, asks[setter][8]) then
      return at
    end
  end

  -- Which resources do not fit at x: 1, 2 and 4 added up.
  function short_at(log, x, ask)
    local b1, b2, b3 = ask[5], ask[6], ask[7]
    local over1, over2, over3 = false, false, false
    local function note(_, s1, s2, s3)
      over1, over2, over3 = over1 or is_over(s1, b1), over2 or is_over(s2, b2), over3 or is_over(s3, b3)
    end
    note(x, sum_at(log, x))
    bookings_after(log, x, note)
    return (over1 and 1 or 0) + (over2 and 2 or 0) + (over3 and 4 or 0)
  end
end
