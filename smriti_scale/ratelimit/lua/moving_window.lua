-- Moving window: a list of the moments of the units taken, oldest first, beside the caller's hash. The hash keeps the
-- field "=" so that resetting the caller finds the list.
local function at(list, index)
  return tonumber(redis.call('LINDEX', list, index))
end

-- How many entries are at or before `bound`.
local function count_until(list, size, bound)
  if size == 0 or at(list, 0) > bound then
    return 0
  end
  local low, high = 1, size
  while low < high do
    local middle = math.floor((low + high) / 2)
    if at(list, middle) <= bound then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function push(list, moment, units)
  local text = string.format('%.0f', moment)
  while units > 0 do
    local batch = {}
    for i = 1, math.min(units, 1000) do
      batch[i] = text
    end
    redis.call('RPUSH', list, unpack(batch))
    units = units - #batch
  end
end

algorithms.M = {
  load = function(_, rule, now)
    local list = rule.list
    local size = redis.call('LLEN', list)
    if size > 0 and at(list, -1) > now then
      -- The clock was set back: all that still counted counts from now.
      local live = size - count_until(list, size, at(list, -1) - rule.window)
      redis.call('DEL', list)
      push(list, now, live)
      size = live
    end
    local gone = count_until(list, size, now - rule.window)
    if gone > 0 then
      redis.call('LTRIM', list, gone, -1)
    end
    return { size - gone }
  end,
  available = function(state, rule)
    return math.max(0, rule.amount - state[1])
  end,
  take = function(state, rule, now, units)
    push(rule.list, now, units)
    state[1] = state[1] + units
  end,
  give_back = function(state, rule, _, units, stamp)
    state[1] = state[1] - redis.call('LREM', rule.list, -units, string.format('%.0f', stamp))
  end,
  save = function()
    return '='
  end,
  stamp = function(_, _, now)
    return now
  end,
  reset_at = function(state, rule, now)
    return state[1] > 0 and at(rule.list, -1) + rule.window or now
  end,
  retry_after = function(state, rule, now, units)
    if units > rule.amount then
      return rule.window
    end
    return at(rule.list, state[1] + units - rule.amount - 1) + rule.window - now
  end,
  expires_at = function(_, rule, now)
    return now + rule.window
  end,
}
