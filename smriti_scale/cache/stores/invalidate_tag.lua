-- Give a tag a new version. KEYS: version, causal positions. ARGV: nonce, lifetime of the version in ms,
-- causal position ('' for none), window in ms, channel, message ('' for none).
local now = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', now[1] * 1000000 + now[2]) .. '-' .. ARGV[1], 'PX', ARGV[2])
if ARGV[3] ~= '' then
  local ms = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('ZADD', KEYS[2], ms, ARGV[3])
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ms - ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
if ARGV[6] ~= '' then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return 1
