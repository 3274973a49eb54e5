-- The rules of rates.py, on buckets that several gateways have in common. Runs whole, by Redis' own clock.
--   take: for each key its interval, burst and cost. All are taken, or none. Answers how long to wait (0: taken) and how
--         far ahead of now each bucket is.
--   settle: one key, and by how many seconds it owes more (or less) than was taken.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function ahead(key)
  return tonumber(redis.call('GET', key) or now) - now
end
local function put(key, seconds)
  if seconds > 0 then
    redis.call('SET', key, string.format('%.6f', now + seconds), 'PX', math.ceil(seconds * 1000) + 1000)
  else
    redis.call('DEL', key)
  end
end
if ARGV[1] == 'settle' then
  local more = tonumber(ARGV[2])
  if more > 0 then
    put(KEYS[1], math.max(ahead(KEYS[1]), 0) + more)
  else
    put(KEYS[1], ahead(KEYS[1]) + more)
  end
  return 0
end
local wait, told = 0, {}
for i, key in ipairs(KEYS) do
  local interval, burst, cost = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  told[i] = math.max(ahead(key), 0)
  wait = math.max(wait, told[i] + (math.min(cost, burst) - burst) * interval)
end
if wait <= 0.000001 then
  wait = 0
  for i, key in ipairs(KEYS) do
    told[i] = told[i] + tonumber(ARGV[3 * i + 1]) * tonumber(ARGV[3 * i - 1])
    put(key, told[i])
  end
end
for i = 1, #told do
  told[i] = string.format('%.6f', told[i])
end
table.insert(told, 1, string.format('%.6f', wait))
return told
