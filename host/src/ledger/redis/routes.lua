-- Forgets clients and machines not seen for 30 days, a thousand of each at once, and reads what is known of the rest
-- together.
-- KEYS: seen, answers, hosts, facts, machines
-- ARGV: the time at or before which a client has expired, how many clients are wanted at most
-- Returns: how many were forgotten, distinct clients, distinct machines, hosts and their clients, facts, when the oldest
-- of the clients that are wanted was seen; an empty one where all are wanted.
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1000)
for _, client in ipairs(expired) do
  local record = redis.call('HGET', KEYS[2], client)
  if record then
    local host = host_of(record)
    if redis.call('HINCRBY', KEYS[3], host, -1) <= 0 then redis.call('HDEL', KEYS[3], host) end
    redis.call('HDEL', KEYS[2], client)
  end
  redis.call('ZREM', KEYS[1], client)
end
local machines = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', ARGV[1], 'LIMIT', 0, 1000)
if #machines > 0 then redis.call('ZREM', KEYS[5], unpack(machines)) end
local oldest = redis.call('ZRANGE', KEYS[1], ARGV[2] - 1, ARGV[2] - 1, 'REV', 'WITHSCORES')[2] or ''
return {#expired + #machines, redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[5]), redis.call('HGETALL', KEYS[3]), redis.call('HGETALL', KEYS[4]), oldest}
