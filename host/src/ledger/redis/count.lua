-- Counts requests of rehearsal clients, in order; counting.rs explains the rule.
-- KEYS: applications, events, then for each application of the batch: clients, guard, totals
-- ARGV: how many applications, their IDs,
--       then for each request: application (1..), client, N, received ms, asked us, licence status, sealed event
-- Returns for each request its current count, -1 for a replay, or -2 less the count for one that is sent again.
-- Cost of a request: two O(log n) insertions and one append; all else is once for each application of the batch.
local applications = tonumber(ARGV[1])
local states = {}

-- Whether the guard refused a request because it is the client's last one, sent again a moment later.
local function is_sent_again(guard, client, asked, received)
  return math.abs(received * 1000 - asked) <= SENT_AGAIN_WITHIN_MS * 1000
    and tonumber(redis.call('ZSCORE', guard, client)) == asked
end

for a = 1, applications do
  local clients, guard, totals = KEYS[3 * a], KEYS[3 * a + 1], KEYS[3 * a + 2]
  local oldest = redis.call('ZRANGE', clients, 0, 0, 'WITHSCORES')[2]
  local largest = redis.call('HGET', totals, 'n')
  states[a] = {
    clients = clients, guard = guard, totals = totals,
    largest = tonumber(largest or '0'), stored = tonumber(largest or '0'),
    entries = redis.call('ZCARD', clients),
    oldest = tonumber(oldest), -- never later than the oldest entry
    received = nil, total = 0, failed = 0, status = {},
  }
end

local verdicts = {}
for i = applications + 2, #ARGV, 7 do
  local state = states[tonumber(ARGV[i])]
  local client, required, received = ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if redis.call('ZADD', state.guard, 'GT', 'CH', ARGV[i + 4], client) == 0 then
    if is_sent_again(state.guard, client, tonumber(ARGV[i + 4]), received) then
      local since = string.format('(%.0f', received - ENTRY_LIFE_MS)
      verdicts[#verdicts + 1] = -2 - redis.call('ZCOUNT', state.clients, since, '+inf')
    else
      state.failed = state.failed + 1
      verdicts[#verdicts + 1] = -1
    end
  else
    state.largest = math.max(state.largest, required)
    state.received = math.max(state.received or received, received)
    local expired = received - ENTRY_LIFE_MS
    if state.oldest and state.oldest <= expired then
      state.entries = state.entries - redis.call('ZREMRANGEBYSCORE', state.clients, '-inf', expired)
      state.oldest = tonumber(redis.call('ZRANGE', state.clients, 0, 0, 'WITHSCORES')[2])
    end
    state.entries = state.entries + redis.call('ZADD', state.clients, 'GT', ARGV[i + 3], client)
    state.oldest = math.min(state.oldest or received, received)
    local beyond = state.entries - 2 * state.largest
    if beyond > 0 then
      state.entries = state.entries - redis.call('ZREMRANGEBYRANK', state.clients, 0, beyond - 1)
    end
    local status = 's' .. ARGV[i + 5]
    state.total = state.total + 1
    state.status[status] = (state.status[status] or 0) + 1
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', EVENTS_KEPT, '*', 'e', ARGV[i + 6])
    verdicts[#verdicts + 1] = state.entries
  end
end

for a = 1, applications do
  local state = states[a]
  if state.largest > state.stored then
    redis.call('SADD', KEYS[1], ARGV[a + 1])
    redis.call('HSET', state.totals, 'n', state.largest)
  end
  if state.total > 0 then redis.call('HINCRBY', state.totals, 'total', state.total) end
  if state.failed > 0 then redis.call('HINCRBY', state.totals, 'failed', state.failed) end
  for status, requests in pairs(state.status) do redis.call('HINCRBY', state.totals, status, requests) end
  if state.received then
    redis.call('ZREMRANGEBYSCORE', state.guard, '-inf', '(' .. string.format('%.0f', (state.received - CLOCK_TOLERANCE_MS) * 1000))
    local beyond = redis.call('ZCARD', state.guard) - GUARDED_CLIENTS
    if beyond > 0 then redis.call('ZREMRANGEBYRANK', state.guard, 0, beyond - 1) end
  end
end
return verdicts
