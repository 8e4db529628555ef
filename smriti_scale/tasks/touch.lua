-- Show that the holder of these messages lives. KEYS[1] index; ARGV[1] seconds to add to the score, then the tags.
local time = redis.call('TIME')
local score = time[1] + time[2] / 1000000 + ARGV[1]
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', score, ARGV[i])
end
return score
