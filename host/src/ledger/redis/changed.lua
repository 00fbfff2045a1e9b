-- Reads clients in the order of their last answer.
-- KEYS: seen, answers
-- ARGV: from which time on, how many at most
-- Returns for each: client, time ms, record; an empty one where there is none.
local page = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local rows = {}
for i = 1, #page, 2 do
  rows[#rows + 1] = page[i]
  rows[#rows + 1] = page[i + 1]
  rows[#rows + 1] = redis.call('HGET', KEYS[2], page[i]) or ''
end
return rows
