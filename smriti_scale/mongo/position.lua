-- Keep the later of two positions.
-- KEYS[1]: the caller's key. ARGV[1]: the position, its time first, as hexadecimal digits of fixed width, so that
-- text compares as time does. ARGV[2]: seconds to keep it.
local known = redis.call('GET', KEYS[1])
if not known or known < ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return redis.status_reply('OK')
