-- Sliding window counter: "start current previous end". The last window's count fades out evenly.
algorithms.S = {
  load = function(raw, rule, now)
    local begin = now - math.fmod(now, rule.window)
    local start, current, previous = string.match(raw or '', '^(%d+) (%d+) (%d+) ')
    if not start then
      return { begin, 0, 0 }
    end
    start, current, previous = tonumber(start), tonumber(current), tonumber(previous)
    if start == begin then
      return { start, current, previous }
    elseif begin == start + rule.window then
      return { begin, 0, current }
    elseif begin > start then
      return { begin, 0, 0 }
    end
    -- The clock was set back: what was counted is what counts.
    return { begin, math.min(rule.amount, current + previous), 0 }, true
  end,
  available = function(state, rule, now)
    local fading = math.ceil(state[3] * (rule.window - (now - state[1])) / rule.window)
    return math.max(0, rule.amount - state[2] - fading)
  end,
  take = function(state, _, _, units)
    state[2] = state[2] + units
  end,
  give_back = function(state, rule, _, units, stamp)
    if state[1] == stamp then
      state[2] = math.max(0, state[2] - units)
    elseif state[1] == stamp + rule.window then
      state[3] = math.max(0, state[3] - units)
    end
  end,
  save = function(state, rule)
    return string.format('%.0f %.0f %.0f %.0f', state[1], state[2], state[3], state[1] + 2 * rule.window)
  end,
  stamp = function(state)
    return state[1]
  end,
  reset_at = function(state, rule, now)
    if state[2] > 0 then
      return state[1] + 2 * rule.window
    elseif state[3] > 0 then
      return state[1] + rule.window
    end
    return now
  end,
  retry_after = function(state, rule, now, units)
    local room = rule.amount - units - state[2]
    local at
    if room >= 0 and state[3] > 0 then
      at = state[1] + rule.window - room * rule.window / state[3]
    else
      at = state[1] + 2 * rule.window - math.max(0, rule.amount - units) * rule.window / math.max(1, state[2])
    end
    return math.max(1, math.ceil(at - now) + 1)
  end,
  expires_at = function(state, rule)
    return state[1] + 2 * rule.window
  end,
}
