-- A client's record in `answers` is: latest hour asked (i32, big-endian) | 24 hourly counters | + or - | host.
-- asks.rs explains the counters; + says that the host was believed to be warm. Records written before there was a sign lack
-- it, and a host's name never begins with one.
local function host_of(record) return string.match(record, '^[+-]?(.*)$', 29) end

