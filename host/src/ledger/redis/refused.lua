-- Counts refused requests, appends events and notes machines.
-- KEYS: applications, events, machines (by time of their last request), then the totals of each application of the batch
-- ARGV: how many applications, for each its ID and its refused requests, how many machines, for each its pseudonym and
--       time ms, then the sealed events
local applications = tonumber(ARGV[1])
for a = 1, applications do
  redis.call('SADD', KEYS[1], ARGV[2 * a])
  redis.call('HINCRBY', KEYS[3 + a], 'failed', ARGV[2 * a + 1])
end
local first = 2 * applications + 3
local events = first + 2 * tonumber(ARGV[first - 1])
for i = first, events - 1, 2 do
  redis.call('ZADD', KEYS[3], 'GT', ARGV[i + 1], ARGV[i])
end
local beyond = redis.call('ZCARD', KEYS[3]) - ROUTES_KEPT
if beyond > 0 then redis.call('ZREMRANGEBYRANK', KEYS[3], 0, beyond - 1) end
for i = events, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', EVENTS_KEPT, '*', 'e', ARGV[i])
end
return 0
