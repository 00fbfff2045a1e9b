-- Reads current counts and totals.
-- KEYS: for each application: clients, totals
-- ARGV: the time at or before which an entry has expired
-- Returns for each application: count, N, total, failed, then requests by licence status 0 to 6.
local fields = {'n', 'total', 'failed', 's0', 's1', 's2', 's3', 's4', 's5', 's6'}
local numbers = {}
for i = 1, #KEYS, 2 do
  numbers[#numbers + 1] = redis.call('ZCOUNT', KEYS[i], '(' .. ARGV[1], '+inf')
  for _, number in ipairs(redis.call('HMGET', KEYS[i + 1], unpack(fields))) do
    numbers[#numbers + 1] = tonumber(number or '0')
  end
end
return numbers
