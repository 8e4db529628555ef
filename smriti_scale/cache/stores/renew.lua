-- Keep a lease while the load goes on. KEYS: lease. ARGV: token, lease in ms. Returns 1 when it is still ours.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
