-- Fixed window: "used reset_at" in a field of the caller's hash. The window begins with its first request.
algorithms.F = {
  load = function(raw, rule, now)
    local used, reset_at = string.match(raw or '', '^(%d+) (%d+)$')
    if not used or now >= tonumber(reset_at) then
      return { 0, now + rule.window }
    end
    -- A clock set back must not make the window longer than it is.
    reset_at = tonumber(reset_at)
    return { tonumber(used), math.min(reset_at, now + rule.window) }, reset_at > now + rule.window
  end,
  available = function(state, rule)
    return math.max(0, rule.amount - state[1])
  end,
  take = function(state, _, _, units)
    state[1] = state[1] + units
  end,
  give_back = function(state, _, _, units, stamp)
    if state[2] == stamp then
      state[1] = math.max(0, state[1] - units)
    end
  end,
  save = function(state)
    return string.format('%.0f %.0f', state[1], state[2])
  end,
  stamp = function(state)
    return state[2]
  end,
  reset_at = function(state)
    return state[2]
  end,
  retry_after = function(state, _, now)
    return state[2] - now
  end,
  expires_at = function(state)
    return state[2]
  end,
}
