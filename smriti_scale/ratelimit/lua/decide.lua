-- All limits of one request, all or nothing, in one call. The algorithms stand before this text in the same script.
--
-- KEYS  the callers' hashes, and the lists of moving windows; on a cluster all of one slot
-- ARGV  1 "1" to give units back in place of taking them
--       2 time in microseconds, or "0" for the server's own
--       3 index of the hash that counts refusals ("0": nobody is banned)  4 refusals that ban  5 within  6 ban for
--       7 "1" to count a refusal that was decided elsewhere (another slot)
--       then for each limit: hash, list (index or "0"), field, algorithm, amount, window, size, need, want, shadow
-- Gives  now, banned until (or 0), and for each limit: granted (or -1), remaining, reset at, retry after, stamp
local CHECK, FIRST = 10, 8
local SAMPLE, CROWDED = 20, 64
local now = tonumber(ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function keep_until(key, moment)
  local needed = math.ceil((moment - now) / 1000) + 1
  if redis.call('PTTL', key) < needed then
    redis.call('PEXPIRE', key, needed)
  end
end

local function banned_until(key)
  local ends = tonumber(redis.call('HGET', key, '!ban') or 0)
  if ends <= now then
    return 0
  end
  return math.min(ends, now + tonumber(ARGV[6]))
end

-- Counts one refusal and says until when the caller is banned for it.
local function strike(key)
  local rule = { amount = tonumber(ARGV[4]), window = tonumber(ARGV[5]) }
  local state = algorithms.F.load(redis.call('HGET', key, '!refused'), rule, now)
  state[1] = state[1] + 1
  if state[1] < rule.amount then
    redis.call('HSET', key, '!refused', algorithms.F.save(state))
    keep_until(key, state[2])
    return 0
  end
  local ends = now + tonumber(ARGV[6])
  redis.call('HDEL', key, '!refused')
  redis.call('HSET', key, '!ban', string.format('%.0f', ends))
  keep_until(key, ends)
  return ends
end

local ban = tonumber(ARGV[3])
local reply = { now, 0 }
if ban > 0 then
  reply[2] = banned_until(KEYS[ban])
  if reply[2] > 0 then
    return reply
  end
end

local checks, allowed = {}, true
for base = FIRST, #ARGV, CHECK do
  local rule = {
    amount = tonumber(ARGV[base + 4]),
    window = tonumber(ARGV[base + 5]),
    size = tonumber(ARGV[base + 6]),
    list = KEYS[tonumber(ARGV[base + 1])],
  }
  local key, field, algorithm = KEYS[tonumber(ARGV[base])], ARGV[base + 2], algorithms[ARGV[base + 3]]
  local raw = redis.call('HGET', key, field)
  local state, set_right = algorithm.load(raw, rule, now)
  local check = { key = key, field = field, rule = rule, algorithm = algorithm, state = state, known = raw }
  check.set_right = set_right
  check.need, check.want = tonumber(ARGV[base + 7]), tonumber(ARGV[base + 8])
  if ARGV[1] ~= '1' then
    local available = algorithm.available(state, rule, now)
    check.granted = check.need <= available and math.min(check.want, available) or -1
    allowed = allowed and (check.granted >= 0 or ARGV[base + 9] == '1')
  end
  checks[#checks + 1] = check
end

-- One caller who asks for ever new routes must not grow a hash for ever: now and then some that are over go.
local function tidy(key)
  if redis.call('HLEN', key) < CROWDED then
    return
  end
  local sample = redis.call('HRANDFIELD', key, SAMPLE, 'WITHVALUES')
  for i = 1, #sample, 2 do
    local field, value = sample[i], sample[i + 1]
    local over
    if value == '=' then
      over = redis.call('EXISTS', key .. '|' .. field) == 0
    elseif string.sub(field, 1, 1) ~= '!' then
      over = tonumber(string.match(value, '[%d.]+$')) <= now
    end
    if over then
      redis.call('HDEL', key, field)
    end
  end
end

local function store(check)
  redis.call('HSET', check.key, check.field, check.algorithm.save(check.state, check.rule, now))
  local ends = check.algorithm.expires_at(check.state, check.rule, now)
  keep_until(check.key, ends)
  if check.rule.list then
    keep_until(check.rule.list, ends)
  end
  if not check.known then
    tidy(check.key)
  end
end

for _, check in ipairs(checks) do
  local algorithm, state, rule = check.algorithm, check.state, check.rule
  if ARGV[1] == '1' then
    if check.known then
      algorithm.give_back(state, rule, now, check.need, check.want)
      store(check)
    end
    check.granted = 0
  elseif allowed and check.granted > 0 then
    algorithm.take(state, rule, now, check.granted)
    store(check)
  elseif not allowed and check.granted > 0 then
    check.granted = 0
  elseif check.granted < 0 and check.set_right then
    -- The clock was set back; kept, or a refused caller would be told to wait anew at every try.
    store(check)
  end
  local remaining = algorithm.available(state, rule, now)
  local wait = 0
  if check.granted < 0 or remaining == 0 and check.need == 0 then
    wait = algorithm.retry_after(state, rule, now, math.max(1, check.need))
  end
  for _, value in ipairs({
    check.granted,
    remaining,
    algorithm.reset_at(state, rule, now),
    wait,
    algorithm.stamp(state, rule, now),
  }) do
    reply[#reply + 1] = value
  end
end

if ban > 0 and (not allowed or ARGV[7] == '1') then
  reply[2] = strike(KEYS[ban])
end
return reply
