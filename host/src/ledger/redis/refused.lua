-- Counts refused requests and appends events.
-- KEYS: applications, events, then the totals of each application of the batch
-- ARGV: how many applications, for each its ID and its refused requests, then the sealed events
local applications = tonumber(ARGV[1])
for a = 1, applications do
  redis.call('SADD', KEYS[1], ARGV[2 * a])
  redis.call('HINCRBY', KEYS[2 + a], 'failed', ARGV[2 * a + 1])
end
for i = 2 * applications + 2, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', EVENTS_KEPT, '*', 'e', ARGV[i])
end
return 0
