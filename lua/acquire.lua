-- acquire.lua: charges requests of one org, each on all of its ledgers or on none, or says when they would fit.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2 .. n + 1   ledgers    string   what is charged per scope and window
--       per pool     state      string   how the users share it
--                    users      zset     who asked, by when
--                    heavy      zset     who of them is heavy
--       per set      slots      zset     leases of calls under way
--       then         controls   hash     what operators have decided: see govern.lua
--                    records    hash     reservations that no ledger carries, by id
-- ARGV  1            packed     n ledgers I2, m requests I2, p pools I2, s sets of slots I2
--                               per ledger: window I6 (ms, 1000 to 31 days), home I1 (1: its entries may carry reservations)
--                               per request: id c16, form I1 (0; 1: it may move up; 2: the subject is blocked, and nothing is asked; 4
--                               more: the long form), max_wait I6 (ms; 0: now or nothing), home I2 (a ledger; 0: none), ledgers asked
--                               I1, records I2 (a place in KEYS); in the long form then pools asked I1, sets asked I1, version of the
--                               controls it knows I6, until when they are those I6 (in the short one 0, 0, 0 and 2^48 - 1);
--                               then per ledger asked: ledger I2, three amounts I6, three bounds I6 (what a window may already hold;
--                               2^48 - 1: any), horizon I6 (ms); then per set asked: set I2, slots I4, lease I4 (ms); then per pool
--                               asked: pool I2, its ledger I2, place of the resource in it I1, its ledger and that of the user I1
--                               (places among the ledgers asked), amount I6, weight I2, limit I6, notes I1 (1: the pool notes a heavy
--                               user; 2: any user), length I2 and what is noted (the weight, highest byte first, and id of the user;
--                               nothing where nobody is)
--                               at the end the caller's mark, c2: it tells who has noticed a loss
--       2            known      packed   of the head that the caller has seen: when it expires I6, epoch c8. 0 and 0: it has seen none; 2^48 - 1
--                               and 0: and asks whether data were lost
-- RETURNS packed: now I6, state I1: 8 the head is as known; else what is added up of 1 this life of the data began after a loss, 2 it is not
--       the one that the caller has seen (nothing was decided), 4 the caller's mark is on it; and then of the head: when it expires I6, epoch
--       c8 (0 and 0: there is none). Nothing follows a 2. Else per request: code I1, at I6, setter I1 (a place among the ledgers asked, from 1;
--       0: none);
--       then per ledger asked: short I1 (resources that do not fit 1 ms before `at`: 1, 2, 4 added up), three sums in the window I7, last I6;
--       then per pool asked: heavy I1, share I6 (0 where nothing was decided: codes 3 to 6 and 8, and an id that was known)
--       then, if sets were asked: fencing token I7 (0: no slot was taken), and per set the live leases I4
--       code 1 charged at `at` (now; later: a booking; earlier: the id was known), 2 denied (it fits at `at`), 3 released before,
--       4 the id has another cost, 5 a key holds something else, 6 an amount out of range, 7 no slot is free in set `setter` of those
--       asked (a lease expires at `at`), 8 the controls are others; 3 to 8 change nothing
-- COST  1 TIME, 1 GET, 1 SET where a loss is marked or must be remembered for longer, per ledger 1 GETRANGE and 1 write; per 16 entries
--       looked at 1 GETRANGE; as much again for what no summary can answer
-- TTL   every key: see lib/write.lua
-- PRE   cost <= limit (a caller whose cost is above it asks as if blocked, and says `never`)
-- MODEL src/store/memory.rs; tests/it/model.rs holds the two together
--
-- The loop below answers the usual requests, in order, by summaries alone. Its body goes on in lib/fair/, for a request on pools that are
-- shared fairly, in lib/room.lua, for one that does not fit now, and in lib/charge.lua. The first request that summaries cannot answer ends
-- it. No functions: see lib/read.lua.

local REQUEST, REQUEST_SIZE, LONG, MORE = '<c16BI6I2B', 28, 4, '<BBI6I6'
local ASK_SIZE, ASK_SUMMARY, ASK_AMOUNTS = 44, '<I2I6I6I6I6I6I6', '<I2I6I6I6'
local FAIR, HEAVY_PARTS = '<I2I2BBBI6I2I6BI2c0', 16
local ADMITTED, DENIED, STALE = 1, 2, 8

-- Controls bind from the next decision on: a request that knows others is told so. The head says 1 where there may be some, 2 where there
-- are none, and 0 where whoever made it did not look.
local controls_version = 0
if flags ~= 2 then
  local version = try('HGET', keys[slots_from + slots_asked + 1], 'version')
  if type(version) == 'table' then
    return redis.error_reply('ALLOTFORMAT controls')
  end
  controls_version = version and version + 0 or 0
  flags = version and 1 or 2
end
-- the first part of the answer is the time
answers_now, replied = true, 1

-- A loss is marked in the epoch, which releases that know of no losses keep. A number of theirs may look like a mark, but hardly like one of
-- the last 49 days.
lost_at = lost_at - AFTER_LOSS
if lost_at > now or now - lost_at >= 2 ^ 32 then
  lost_at = 0
end
if head and find(head, ARGV[2], 13, true) == 13 then
  -- the head is the one that the caller has seen
  life = 8
else
  local known_until, known_at = read('<I6I6', ARGV[2])
  local is_same = head and find(head, sub(ARGV[2], 7), 19, true) == 19
  if now < known_until and not is_same and (known_at > 0 or lost_at > 0) then
    -- It has seen another life of the data, whose head cannot have expired: data are lost. The first to say so marks the new life.
    local mark = sub(args, -2)
    if lost_at == 0 then
      epoch, lost_at = pack('<I6', now + AFTER_LOSS) .. mark, now
      -- a loss is remembered for the longest life of a lease at least
      head_expires_at = math.max(head_expires_at, now + 600000)
    end
    local is_mine = known_at > 0 and (epoch or sub(head, 25, 26) == mark)
    if known_at > 0 and head_expires_at < known_until then
      -- the loss is remembered for as long as what was lost would have been
      epoch, head_expires_at = epoch or sub(head, 19, 26), known_until
    end
    answered, life = requests, is_mine and 6 or 2
  end
end

-- Of lib/room.lua: an entry of a log, by its number.
local entry_at

while answered < requests do
  -- who is blocked asks nothing of a ledger: answered here, it keeps nobody behind it from the rest of this loop
  local blocked = byte(args, position + 16)
  while blocked and blocked % LONG == 2 do
    local version, until_at, after, _ = 0, UNBOUNDED, position + REQUEST_SIZE
    if blocked >= LONG then
      _, _, version, until_at, after = read(MORE, args, after)
    end
    local is_current = version == controls_version and now < until_at
    answered, replied, position = answered + 1, replied + 1, after
    answers[replied] = pack('<BI6B', is_current and DENIED or STALE, is_current and now or 0, 0)
    blocked = answered < requests and byte(args, position + 16)
  end
  if answered == requests then
    break
  end
  local id, form, max_wait, home, count = read(REQUEST, args, position)
  local asked, from, shares, sets = args, position + REQUEST_SIZE, 0, 0
  local usual = form == 0 and controls_version == 0
  if form >= LONG then
    local version, until_at
    shares, sets, version, until_at, from = read(MORE, args, from)
    usual = form == LONG and version == controls_version and now < until_at
    if max_wait >= until_at - now then
      -- no place is promised for when the controls are others
      max_wait = until_at - now - 1
    end
  end
  local till = from + count * ASK_SIZE - 1
  local sets_at = till + 1
  local next_position = sets_at + sets * SLOTS_SIZE
  -- Can summaries answer? `stale`: entries have left the window of a log since its summary was made, so another ledger may deny, but the
  -- log cannot be charged. `ripe`: a log cannot be charged now without a fold. `lined`: places are booked. `tight`: a log is over
  -- what it may hold.
  local fits, stale, ripe, lined, tight = true, false, false, false, false
  -- Of the quiet ledger that would carry the reservation: what is asked of it, and its records in the window, from byte `first` on.
  local carrier, carrier_at, first, held, used1, used2, used3, bound1, bound2, bound3 = false, 0, 1, 0, 0, 0, 0, 0, 0, 0
  local carried1, carried2, carried3, records_key
  for at = from, till, ASK_SIZE do
    local k, a1, a2, a3, b1, b2, b3 = read(ASK_SUMMARY, asked, at)
    local s = logs[k]
    if a1 > AMOUNT_MAX or a2 > AMOUNT_MAX or a3 > AMOUNT_MAX or broken and broken[k] then
      usual = false
    elseif s then
      local last_at, w = s[LAST], window[k]
      -- a log outlives the reservations made on it, so one that charges nothing is for lib/log.lua
      usual = usual and (k ~= home or a1 + a2 + a3 > 0)
      if last_at > s[NEWEST] then
        local p1, p2, p3, l1, l2, l3 = s[PEAK], s[PEAK + 1], s[PEAK + 2], s[AHEAD], s[AHEAD + 1], s[AHEAD + 2]
        usual = usual and now < s[CALM] and l1 + a1 <= ENTRY_MAX and l2 + a2 <= ENTRY_MAX and l3 + a3 <= ENTRY_MAX
          and p1 + a1 <= ENTRY_MAX and p2 + a2 <= ENTRY_MAX and p3 + a3 <= ENTRY_MAX
        fits = fits and s[1] <= b1 and s[2] <= b2 and s[3] <= b3 and p1 <= b1 and p2 <= b2 and p3 <= b3
        ripe = ripe or now >= s[MERGE]
        lined = true
      else
        if now >= s[CALM] then
          stale = true
          usual = usual and s[CALM] > 0
          if last_at + w <= now then
            s[1], s[2], s[3] = 0, 0, 0
          end
          usual = usual and s[1] <= b1 and s[2] <= b2 and s[3] <= b3
        end
        if s[1] > b1 or s[2] > b2 or s[3] > b3 then
          fits, tight = false, true
        elseif now >= s[MERGE] then
          -- a short log takes one more time at its end: up to 32 times nothing is folded
          local past = s[PAST] or read('<I2', s[RAW], #s[RAW] - TAIL_SIZE + 26)
          ripe = ripe or past == 0 or past >= KEEP
        end
      end
      usual = usual and s[1] + a1 <= ENTRY_MAX and s[2] + a2 <= ENTRY_MAX and s[3] + a3 <= ENTRY_MAX
    elseif home == k and a1 + a2 + a3 > 0 and a1 <= NARROW_MAX and a2 <= NARROW_MAX and a3 <= NARROW_MAX then
      carrier, carrier_at, carried1, carried2, carried3, bound1, bound2, bound3 = k, at, a1, a2, a3, b1, b2, b3
      local raw = quiet[k]
      if raw then
        used1, used2, used3, held = read(SUMS, raw, #raw - TRAILER_SIZE + 1)
        -- records that have left the window go; 128 is added to their number while one is a booking
        local alive = (now - window[k] + 1) * 4
        while held > 0 do
          local stamp, c1, c2, c3 = read('<I6I4I4I4', raw, first + 16)
          if stamp >= alive or held > RECORDS_MAX then
            break
          end
          used1, used2, used3, held, first = used1 - c1, used2 - c2, used3 - c3, held - 1, first + RECORD_SIZE
        end
        usual = usual and held < RECORDS_MAX and not find(raw, id, 1, true)
        fits = fits and used1 <= b1 and used2 <= b2 and used3 <= b3
      end
    else
      usual = false
    end
    if not usual then
      break
    end
  end
  if not usual or fits and (stale or ripe) then
    break
  end
  if not carrier then
    -- no ledger carries it: a hash does; or a log still does, from when it was quiet
    records_key = read('<I2', args, position + 26)
    if recorded and recorded[id] or try('HGET', keys[records_key], id) then
      break
    end
    local s = logs[home]
    local frozen = s and byte(s[RAW], #s[RAW] - TAIL_SIZE + 25) or 0
    if frozen > 0 and find(call('GETRANGE', keys[home + 1], '0', format('%d', frozen * RECORD_SIZE - 1)), id, 1, true) then
      break
    end
  end
