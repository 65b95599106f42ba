-- observe.lua: holds what others use of a pool that an upstream counts, as far as the answer to one call has told.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2            ledger     string   what is charged per scope and window
--       3            others     string   what is held for others of one resource of it: see README.md
-- ARGV  1            packed     1 I2, 0 I2, 0 I2, 0 I2, window I6 (ms), 0 I1; the resource's place I1 (1 to 3); what upstream had counted
--                               I6; what the ledger held when the call was admitted I6; when that was I6 (ms); what the limit enforces
--                               I6; how much of what was counted is used by nobody I6
-- RETURNS packed: code I1, what was held before I6, what is held now I6
--       code 1 renewed, 2 nothing new was told, 6 an amount out of range; 2 and 6 change nothing; an error ALLOTFORMAT, and nothing changed,
--       if a key holds something else
-- COST  1 TIME, 2 GET, 1 GETRANGE, 1 GET of a log, 2 SET
-- TTL   others: two windows after the last charge, at least 75 s; the ledger: see lib/write.lua
-- PRE   none
-- MODEL src/calendar/others.rs; tests/it/model.rs holds the two together

local RENEWED, NOTHING, OUT_OF_RANGE = 1, 2, 6
local key, w = keys[slots_from + 1], window[1]
local place, counted, used_then, at, limit, lacking = read('<BI6I6I6I6I6', args, position)
local raw = try('GET', key)
if broken and broken[1] or type(raw) == 'table' or raw and (#raw < 18 or #raw % 12 ~= 6) then
  return redis.error_reply('ALLOTFORMAT ledger')
end
if counted > AMOUNT_MAX or place < 1 or place > 3 then
  return pack('<BI6I6', OUT_OF_RANGE, 0, 0)
end
use_records()
use_logs()
if at > now then
  at = now
end
local told_at, held_at, last_at, levels, since, amount = 0, 0, 0, 0, {}, {}
if raw then
  told_at, held_at, last_at = read('<I6I6I6', raw)
  for x = 19, #raw, 12 do
    levels = levels + 1
    since[levels], amount[levels] = read('<I6I6', raw, x)
  end
end
local log, charged = open_log(1), levels > 0 and amount[levels] or 0
if charged > 0 then
  if last_at + w <= now then
    -- the charge has left the window
    levels = levels + 1
    since[levels], amount[levels] = last_at + w, 0
  elseif held_at <= log.reset_at or held_at < log.born_at then
    -- the ledger was emptied, or is another
    levels = 0
  end
end
local before, found, is_unclear = levels > 0 and amount[levels] or 0, 0, false
for i = 1, levels do
  if since[i] < at then
    found = amount[i]
  end
  is_unclear = is_unclear or since[i] == at
end
local ours_now = math.min(log.used[place], TOTAL_MAX) - before
local seen = math.max(counted - math.max(used_then - found, ours_now, 0), 0)
-- others use more until the next answer, and not evenly: a quarter is held besides, and at most half of what they leave
local reserve = math.min(math.ceil(math.max(seen - lacking, 0) / 4), math.max(math.floor((limit - seen) / 2), 0))
-- it falls by a 64th, and once more for each 64th of a window since it was renewed
local falls_to = before - math.ceil(before / PARTS) * (1 + math.floor(math.max(now - held_at, 0) * PARTS / w))
local others = math.max(seen + reserve, falls_to)
local is_too_soon = others ~= before and levels > 0 and (now - since[levels]) * PARTS < w
if at + w <= now or at < told_at or is_unclear or is_too_soon then
  return pack('<BI6I6', NOTHING, 0, 0)
end

if charged > 0 then
  local estimate = { 0, 0, 0 }
  estimate[place] = charged
  settle_log(log, held_at, held_at, estimate, { 0, 0, 0 })
  if last_at > held_at then
    settle_log(log, last_at, held_at, estimate, { 0, 0, 0 })
  end
end
last_at = now
if others > 0 then
  local amounts, has_line = { 0, 0, 0 }, log.n > log.past
  amounts[place] = others
  put(log, now, amounts[1], amounts[2], amounts[3])
  fold(log)
  if has_line then
    -- a fold moves a charge later by less than a 64th of the window: no window holds both
    last_at = now + w + math.ceil(w / PARTS)
    put(log, last_at, amounts[1], amounts[2], amounts[3])
  end
  last_place = last_at
end
if others ~= before then
  levels = levels + 1
  since[levels], amount[levels] = now, others
end
local first = 1
while first < levels and since[first + 1] + w <= now do
  first = first + 1
end
local parts = { pack('<I6I6I6', at, now, last_at) }
for i = first, levels do
  parts[#parts + 1] = pack('<I6I6', since[i], amount[i])
end
local value = table.concat(parts)
call('SET', key, value, 'PX', format('%.0f', math.max(last_at - now + 2 * w, 75000)))
answers[1] = pack('<BI6I6', RENEWED, before, others)
