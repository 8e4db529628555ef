-- Remove a key and refuse what is being loaded for it; or, with a value, put that in its place.
-- KEYS: entry, lease, causal positions. ARGV: causal position ('' for none), window in ms, entry ('' for none),
-- lifetime in ms, channel, message ('' for none).
redis.call('DEL', KEYS[2])
if ARGV[3] == '' then
  redis.call('UNLINK', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
if ARGV[1] ~= '' then
  local now = redis.call('TIME')
  local ms = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('ZADD', KEYS[3], ms, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ms - ARGV[2])
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
end
if ARGV[6] ~= '' then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return 1
