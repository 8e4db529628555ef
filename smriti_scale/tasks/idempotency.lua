-- One idempotency key: "R" .. owner while a run holds the lease, "D" .. result once it took effect.
-- KEYS[1] the key; ARGV: verb, owner, milliseconds, result. Returns {state, detail}.
local verb, owner, ms = ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('GET', KEYS[1])
local mine = held == 'R' .. owner

if verb == 'begin' then
  if not held or mine then
    redis.call('SET', KEYS[1], 'R' .. owner, 'PX', ms)
    return {0, ''}
  end
  if string.sub(held, 1, 1) == 'D' then
    return {1, string.sub(held, 2)}
  end
  return {2, tostring(redis.call('PTTL', KEYS[1]))}
elseif verb == 'renew' then
  -- A lease that ended while nobody else began is still ours to take up again.
  if mine or not held then
    redis.call('SET', KEYS[1], 'R' .. owner, 'PX', ms)
    return {1, ''}
  end
elseif verb == 'finish' then
  if mine or not held then
    redis.call('SET', KEYS[1], 'D' .. ARGV[4], 'PX', ms)
    return {1, ''}
  end
elseif verb == 'release' then
  if mine then
    redis.call('DEL', KEYS[1])
    return {1, ''}
  end
end
return {0, ''}
