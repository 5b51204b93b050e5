#!lua name=market_storage
-- The steps that must be one step: each function touches one key, so that all of it runs on Redis Cluster.
-- Loaded by `aggregator-admin migrate`. Raise VERSION with every change; a worker refuses an older library.
local VERSION = 1

-- Revisions exceed what Lua's doubles hold exactly, so they are compared as decimal text.
local function newer(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

-- The fields of a flat reply by name.
local function named(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- put KEY revision expire_command expire_ms channel message field value ...
-- Writes a whole hash and publishes it, unless the hash has a newer revision. Returns 1 if written.
local function put(keys, args)
  local stored = redis.call('HGET', keys[1], 'revision')
  if stored and newer(stored, args[1]) then return 0 end
  redis.call('HSET', keys[1], 'revision', args[1], unpack(args, 6))
  redis.call(args[2], keys[1], args[3])
  if args[4] ~= '' then redis.call('PUBLISH', args[4], args[5]) end
  return 1
end

-- advance KEY group from to count
-- Moves a group's position forward, never back. `count` entries lie between `from` and `to`, so that the lag stays known.
local function advance(keys, args)
  -- How many entries a group at the start has behind it: those that were trimmed.
  local function trimmed()
    local stream = named(redis.call('XINFO', 'STREAM', keys[1]))
    return stream['entries-added'] - stream['length']
  end
  local group, from, to, count = args[1], args[2], args[3], tonumber(args[4])
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', keys[1])) do
    local fields = named(info)
    if fields['name'] == group then
      local at = fields['last-delivered-id']
      local at_ms, at_seq = string.match(at, '^(%d+)-(%d+)$')
      local to_ms, to_seq = string.match(to, '^(%d+)-(%d+)$')
      if newer(at_ms, to_ms) or (at_ms == to_ms and not newer(to_seq, at_seq)) then return 0 end
      local read = fields['entries-read'] or (at == '0-0' and trimmed())
      if at == from and read then
        redis.call('XGROUP', 'SETID', keys[1], group, to, 'ENTRIESREAD', read + count)
      else
        redis.call('XGROUP', 'SETID', keys[1], group, to)
      end
      return 1
    end
  end
  return redis.error_reply('NOGROUP no group ' .. group .. ' on ' .. keys[1])
end

-- lease KEY owner ttl_ms
-- Takes a lease that is free, or renews one's own. Returns 1 if held.
local function lease(keys, args)
  local owner = redis.call('GET', keys[1])
  if owner and owner ~= args[1] then return 0 end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  return 1
end

-- release KEY owner
local function release(keys, args)
  if redis.call('GET', keys[1]) == args[1] then return redis.call('DEL', keys[1]) end
  return 0
end

-- join KEY member ttl_ms
-- Notes that a member lives and returns all that do, by the clock of Redis.
local function join(keys, args)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', keys[1], args[1], now)
  redis.call('PEXPIRE', keys[1], args[2])
  local live = {}
  local members = redis.call('HGETALL', keys[1])
  for i = 1, #members, 2 do
    if now - members[i + 1] > tonumber(args[2]) then
      redis.call('HDEL', keys[1], members[i])
    else
      live[#live + 1] = members[i]
    end
  end
  return live
end

-- announce KEY field value ...
-- Adds to a stream what a worker tells another.
local function announce(keys, args)
  return redis.call('XADD', keys[1], '*', unpack(args))
end

-- opened KEY symbol ...
-- Adds to the index of symbols with open candles.
local function opened(keys, args)
  for _, symbol in ipairs(args) do redis.call('SADD', keys[1], symbol) end
end

-- At the memory limit producers must wait, and the workers must not: their work is what frees memory.
local function register(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end
register('storage_put', put)
register('storage_advance', advance)
register('storage_announce', announce)
register('storage_opened', opened)
register('storage_lease', lease)
register('storage_release', release)
register('storage_join', join)
redis.register_function{
  function_name = 'storage_version',
  callback = function() return VERSION end,
  flags = {'no-writes', 'allow-stale'},
}
