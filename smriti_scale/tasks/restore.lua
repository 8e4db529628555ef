-- Put an unacknowledged message back into its queue, unless it was acknowledged or taken anew meanwhile.
-- KEYS: index, hash, destination list, doorbell. ARGV: delivery tag, message, greatest score that counts as ended
-- ('+inf' for one's own message), 'L' to put it last or 'R' to put it next.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or (ARGV[3] ~= '+inf' and tonumber(score) > tonumber(ARGV[3])) then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call(ARGV[4] .. 'PUSH', KEYS[3], ARGV[2])
redis.call('LPUSH', KEYS[4], '1')
return 1
