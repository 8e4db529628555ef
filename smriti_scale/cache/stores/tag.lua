-- The version of a tag and the causal positions of its recent invalidations. A missing version (never set, evicted,
-- lost) is made anew and unique, so that no entry of before can match it.
-- KEYS: version, causal positions. ARGV: nonce, least lifetime of the version in ms.
-- Returns: version, positions, 1 when the version was made just now.
local version = redis.call('GET', KEYS[1])
local made = 0
if not version then
  local now = redis.call('TIME')
  version = string.format('%.0f', now[1] * 1000000 + now[2]) .. '-' .. ARGV[1]
  redis.call('SET', KEYS[1], version, 'PX', ARGV[2] * 2)
  made = 1
elseif redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
end
return {version, redis.call('ZRANGE', KEYS[2], 0, -1), made}
