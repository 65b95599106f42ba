-- govern.lua: sets or removes one control of an org, and writes down who did.
--
-- KEYS  1            head       string   clock offset and epoch of the org
--       2            controls   hash     `version`, and each control by its id: when it expires I6 (ms; 0: never), then its text
--       3            audit      stream   who changed what, when
-- ARGV  1            id         text     of the control; nothing: only the audit is written
--       2            control    text     nothing removes it
--       3            after      ms       until it expires; 0: never
--       4            by         text     who
--       5            what       text     what is written into the audit
--       6            manner     text     `decided`, or `hinted`: it changes nothing where the control that is there ends no sooner, or hardly so, but
--                               its end where it does, and writes no audit
-- RETURNS packed: version I6 (0: there are no controls), changed I1, old control: length I4 and text; an error ALLOTFORMAT, and nothing
--       changed, if a key holds something else; an error ALLOTLIMIT at 1000 controls
-- COST  1 TIME, 1 GET, 1 HGETALL, at most 2 HSET, 1 HDEL per expired control, 1 XADD, 2 PEXPIRE, 1 SETRANGE
-- TTL   controls: as long as its longest control, and none while one has no end; audit: 90 days after its last entry
-- PRE   the text is one that src/control.rs can read
-- MODEL src/store/memory/book.rs; tests/it/model.rs holds the two together

local head_key, controls_key, audit_key = KEYS[1], KEYS[2], KEYS[3]
local id, control, after, by, what, hinted = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4], ARGV[5], ARGV[6] == 'hinted'
local CONTROLS_MAX, AUDIT_MAX, AUDIT_MS, FORGOTTEN_MS = 1000, '1000', '7776000000', '74999'

if head and #head ~= 28 then
  return redis.error_reply('ALLOTFORMAT head')
end
local fields = redis.pcall('HGETALL', controls_key)
local entries = redis.pcall('XLEN', audit_key)
if fields.err or type(entries) == 'table' then
  return redis.error_reply('ALLOTFORMAT controls')
end
local version, old, count, latest, endless, expired = 0, '', 0, 0, false, {}
for i = 1, #fields, 2 do
  local field, value = fields[i], fields[i + 1]
  if field == 'version' then
    version = value + 0
  else
    local expires_at = read('<I6', value)
    if expires_at > 0 and expires_at <= now then
      expired[#expired + 1] = field
    elseif field == id then
      old = value
    else
      count, latest, endless = count + 1, math.max(latest, expires_at), endless or expires_at == 0
    end
  end
end
local old_text = string.sub(old, 7)
if control ~= '' and count >= CONTROLS_MAX then
  return redis.error_reply('ALLOTLIMIT controls')
end
if hinted and old ~= '' then
  local ends_at = read('<I6', old)
  if ends_at == 0 or ends_at + math.max(math.floor(after / 10), 100) >= now + after then
    -- not worth a new version, which every process fetches
    return pack('<I6BI4', version, 0, #old_text) .. old_text
  end
  -- who has set it keeps his word: it is only extended
  control = old_text
end

for _, field in ipairs(expired) do
  redis.call('HDEL', controls_key, field)
end
local changed = id ~= '' and (control ~= '' or old ~= '')
if changed then
  -- never the same twice, so that who knows one version knows what it says
  version = math.max(version + 1, now)
  if control == '' then
    redis.call('HDEL', controls_key, id)
  else
    local expires_at = after > 0 and now + after or 0
    count, latest, endless = count + 1, math.max(latest, expires_at), endless or expires_at == 0
    local value = pack('<I6', expires_at) .. control
    redis.call('HSET', controls_key, id, value)
  end
end
if count == 0 and changed then
  -- the version is remembered until it cannot come back
  redis.call('HSET', controls_key, 'version', format('%.0f', version))
  redis.call('PEXPIRE', controls_key, FORGOTTEN_MS)
elseif count > 0 then
  redis.call('HSET', controls_key, 'version', format('%.0f', version))
  if endless then
    redis.call('PERSIST', controls_key)
  else
    redis.call('PEXPIRE', controls_key, format('%.0f', math.max(latest - now - 1, 1)))
  end
  if head then
    -- who decides next looks
    redis.call('SETRANGE', head_key, '26', '\1')
  end
end
if not hinted and (changed or id == '') then
  redis.call('XADD', audit_key, 'MAXLEN', AUDIT_MAX, '*', 'at', format('%.0f', now), 'by', by, 'what', what, 'old', old_text, 'new', control)
  redis.call('PEXPIRE', audit_key, AUDIT_MS)
end
return pack('<I6BI4', version, changed and 1 or 0, #old_text) .. old_text
