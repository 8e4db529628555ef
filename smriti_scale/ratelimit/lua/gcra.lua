-- GCRA: the theoretical arrival time, in full precision. Admits burst + rate * time in any span of time.
algorithms.G = {
  load = function(raw, rule, now)
    local furthest = now + rule.window / rule.amount * rule.size
    local known = tonumber(raw or now)
    return { math.min(math.max(known, now), furthest) }, known > furthest
  end,
  available = function(state, rule, now)
    local interval = rule.window / rule.amount
    local slack = math.min(1, interval / 2)
    return math.max(0, math.floor((interval * rule.size - (state[1] - now) + slack) / interval))
  end,
  take = function(state, rule, _, units)
    state[1] = state[1] + rule.window / rule.amount * units
  end,
  give_back = function(state, rule, now, units)
    state[1] = math.max(now, state[1] - rule.window / rule.amount * units)
  end,
  save = function(state)
    return string.format('%.17g', state[1])
  end,
  stamp = function()
    return 0
  end,
  reset_at = function(state)
    return math.ceil(state[1])
  end,
  retry_after = function(state, rule, now, units)
    local interval = rule.window / rule.amount
    return math.max(1, math.ceil(state[1] - now - interval * (rule.size - math.min(units, rule.size))))
  end,
  expires_at = function(state)
    return math.ceil(state[1])
  end,
}
