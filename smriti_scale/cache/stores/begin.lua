-- Ask to load a key. Taking the lease is permission to load and, later, to store; whoever invalidates the key
-- deletes the lease, so a result that was loaded before is refused ("Scaling Memcache at Facebook", NSDI 2013).
-- KEYS: entry, lease, causal positions. ARGV: token, lease in ms, mode (wait, try, force).
-- Returns: won?, the entry as it is now, ms left on the lease, causal positions, time in microseconds.
local entry = redis.pcall('GET', KEYS[1])
if type(entry) == 'table' and entry.err then
  redis.call('DEL', KEYS[1])
  entry = false
end
local won = 0
if ARGV[3] == 'force' or redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HSET', KEYS[2], 'token', ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  won = 1
elseif ARGV[3] == 'wait' then
  redis.call('HSET', KEYS[2], 'waited_for', 1)
end
local positions = {}
if won == 1 then
  positions = redis.call('ZRANGE', KEYS[3], 0, -1)
end
local now = redis.call('TIME')
return {won, entry, redis.call('PTTL', KEYS[2]), positions, now[1] * 1000000 + now[2]}
