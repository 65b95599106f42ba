-- lib/fair/gather_in_full.lua: what a request takes of pools that are shared fairly, by open logs: goes on in lib/fair/stand.lua, once per pool,
-- and ends in lib/acquire_in_full.lua. Asks are { ledger, three amounts, three bounds, horizon, log }.

local ASK = '<I2I6I6I6I6I6I6I6'
local RELEASED, MISMATCH, CORRUPT, OUT_OF_RANGE, FULL = 3, 4, 5, 6, 7

use_records()
use_logs()
use_line()

-- Lowers what the request may find in its logs, and how far ahead it may book; nil if a key holds something else.
local function lower(asks, max_wait, shares, at, noting)
  local standings = {}
  for _ = 1, shares do
    local p, _, place, pool_ask, user_ask, cost, weight, limit, notes, member, after = read(FAIR, args, at)
    at, notes = after, noting and notes or 0
    local of_pool, own, of_user = asks[pool_ask], asks[user_ask], 0
    local used, w = of_pool.log.used[place], of_pool.log.window
    for x = 1, own.log.n * 4, 4 do
      of_user = of_user + own.log.F[x + place]
    end
