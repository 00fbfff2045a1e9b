-- Writes which licensed host answered which client.
-- KEYS: seen (client by time of its last answer), answers (client to record), hosts (host to number of its clients)
-- ARGV: for each answer: client, host, time ms, + if the host was believed to be warm, else -
-- The three keys are one thing: where a store that evicts took one of them, the others are of no use and go too.
local HOUR_MS = 3600000
local present = redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3])
if present == 1 or present == 2 then redis.call('DEL', KEYS[1], KEYS[2], KEYS[3]) end

local function one_less(host)
  if redis.call('HINCRBY', KEYS[3], host, -1) <= 0 then redis.call('HDEL', KEYS[3], host) end
end

for i = 1, #ARGV, 4 do
  local client, host, at = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local hour = math.floor(at / HOUR_MS)
  local before = redis.call('HGET', KEYS[2], client)
  local latest, counters, answered_by, sign = hour, nil, nil, ''
  if before and #before > 28 then
    latest, counters, answered_by = struct.unpack('>i4', before), {string.byte(before, 5, 28)}, host_of(before)
    sign = string.sub(before, 29, -1 - #answered_by)
  else
    counters = {}
    for slot = 1, 24 do counters[slot] = 0 end
  end
  if hour > latest - 24 then
    for passed = math.max(latest + 1, hour - 23), hour do counters[passed % 24 + 1] = 0 end
    latest = math.max(latest, hour)
    local slot = hour % 24 + 1
    counters[slot] = math.min(counters[slot] + 1, 255)
  end
  local later = redis.call('ZADD', KEYS[1], 'GT', 'CH', ARGV[i + 2], client) == 1
  if later or not answered_by then
    sign = ARGV[i + 3]
    if host ~= answered_by then
      if answered_by then one_less(answered_by) end
      redis.call('HINCRBY', KEYS[3], host, 1)
      answered_by = host
    end
  end
  local asked = struct.pack('>i4', latest) .. string.char(unpack(counters))
  redis.call('HSET', KEYS[2], client, asked .. sign .. answered_by)
end

local beyond = redis.call('ZCARD', KEYS[1]) - ROUTES_KEPT
if beyond > 0 then
  for _, client in ipairs(redis.call('ZRANGE', KEYS[1], 0, beyond - 1)) do
    local record = redis.call('HGET', KEYS[2], client)
    if record then
      one_less(host_of(record))
      redis.call('HDEL', KEYS[2], client)
    end
  end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, beyond - 1)
end
return 0
