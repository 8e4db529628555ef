-- Move a dead letter back into its queue, once. KEYS: hash, index, list, doorbell, counter of its starts.
-- ARGV: id, message.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[5])
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.call('LPUSH', KEYS[4], '1')
return 1
