-- control.lua: empties the past of ledgers; booked places stay.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2 .. n + 1   ledgers    string   what is charged per scope and window
-- ARGV  1            packed     n ledgers I2, 0 I2, 0 I2, 0 I2, per ledger: window I6 (ms), 0 I1
-- RETURNS packed: ledgers I2; an error ALLOTFORMAT, and nothing changed, if a key holds something else
-- COST  1 TIME, 1 GET, per ledger 1 GETRANGE, 1 GET and 1 SET
-- TTL   every key: its last time + 1.25 windows, at least 75 s
-- PRE   none
-- MODEL src/store/memory.rs; tests/it/model.rs holds the two together

use_records()
use_logs()
for k = 1, ledgers do
  if broken and broken[k] then
    return redis.error_reply('ALLOTFORMAT ledger')
  end
end
for k = 1, ledgers do
  if quiet[k] or logs[k] then
    reset_log(open_log(k))
  end
end
answers[1] = pack('<I2', ledgers)
