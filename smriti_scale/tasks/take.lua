-- Take the next message and enter it among the unacknowledged ones in the same step, so that no crash falls between.
-- KEYS: the index (sorted set) and the hash of unacknowledged messages, then the lists in the order they are tried,
-- then the doorbells of the queues. ARGV: how many lists there are; seconds to add to the score, which is when the
-- message was taken (negative: it is given back earlier).
local lists = tonumber(ARGV[1])
for i = 3, lists + 2 do
  local message = redis.call('RPOP', KEYS[i])
  if message then
    local decoded, found = pcall(cjson.decode, message)
    if decoded and type(found) == 'table' and type(found.properties) == 'table'
        and type(found.properties.delivery_tag) == 'string' then
      local info = found.properties.delivery_info
      if type(info) ~= 'table' then
        info = {}
      end
      local time = redis.call('TIME')
      redis.call('ZADD', KEYS[1], time[1] + time[2] / 1000000 + ARGV[2], found.properties.delivery_tag)
      -- The record that kombu writes: [message, exchange, routing key]. The message goes in as it came: decoding
      -- and encoding it again would turn its empty lists into objects.
      redis.call('HSET', KEYS[2], found.properties.delivery_tag, '[' .. message .. ','
        .. cjson.encode(info.exchange or '') .. ',' .. cjson.encode(info.routing_key or '') .. ']')
    end
    return {KEYS[i], message}
  end
end
-- All lists are empty: what the doorbells still say is about messages that are gone.
for i = lists + 3, #KEYS do
  redis.call('DEL', KEYS[i])
end
return false
