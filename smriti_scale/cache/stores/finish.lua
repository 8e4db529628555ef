-- End a load: store its result if the lease is still ours, and wake those who wait in other processes.
-- KEYS: entry, lease. ARGV: token, entry ('' to store nothing), lifetime in ms, channel, message.
-- Returns 1 when the lease was ours.
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then
  return 0
end
local waited_for = redis.call('HEXISTS', KEYS[2], 'waited_for')
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
redis.call('DEL', KEYS[2])
if waited_for == 1 then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
return 1
