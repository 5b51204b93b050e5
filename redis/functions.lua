#!lua name=market_storage
-- The steps that must be one step: each function touches one key, so that all of it runs on Redis Cluster.
-- Loaded by `aggregator-admin migrate`. Raise VERSION with every change; a worker refuses an older library.
local VERSION = 4

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
-- Writes a whole hash and publishes it, unless the hash has a newer revision, or the same and is final where this is not: what
-- a writer that has stalled brings late. Returns 1 if written.
local function put(keys, args)
  local stored = redis.call('HMGET', keys[1], 'revision', 'final')
  if stored[1] and newer(stored[1], args[1]) then return 0 end
  if stored[1] == args[1] and stored[2] == '1' and named({unpack(args, 6)})['final'] == '0' then return 0 end
  redis.call('HSET', keys[1], 'revision', args[1], unpack(args, 6))
  redis.call(args[2], keys[1], args[3])
  if args[4] ~= '' then redis.call('PUBLISH', args[4], args[5]) end
  return 1
end

-- Whether the ID `a` comes before `b`.
local function before(a, b)
  local a_ms, a_seq = a:match('(%d+)-(%d+)')
  local b_ms, b_seq = b:match('(%d+)-(%d+)')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_seq) < tonumber(b_seq)
end

-- A stream's fields, and those of one of its groups.
local function stream_and_group(key, group)
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local fields = named(info)
    if fields['name'] == group then return named(redis.call('XINFO', 'STREAM', key)), fields end
  end
end

local function no_group(key, group)
  return redis.error_reply('NOGROUP no group ' .. group .. ' on ' .. key)
end

-- advance KEY group from to count
-- Moves a group's position on, unless somebody else has moved it meanwhile, or this server lacks the entry `to`: then it was read from
-- another one, before a failover, and may not be all that lies before it here. `count` entries lie between `from` and `to`, so that the
-- lag stays known. Returns the position.
local function advance(keys, args)
  local key, group, from, to, count = keys[1], args[1], args[2], args[3], tonumber(args[4])
  local stream, fields = stream_and_group(key, group)
  if not fields then return no_group(key, group) end
  local at, read, first = fields['last-delivered-id'], fields['entries-read'], stream['first-entry']
  read = read and read + count
  if at ~= from then return at end
  if #redis.call('XRANGE', key, to, to) == 0 then
    -- Here it was and others have trimmed it since: everything up to it is gone, as many entries as were read at least.
    local is_trimmed = not before(stream['last-generated-id'], to) and (not first or before(to, first[1]))
    if not (is_trimmed and read and stream['entries-added'] - stream['length'] >= read) then return at end
  end
  -- How many entries a group has behind it where Redis does not know: at the start those that were trimmed, at the end all.
  if not read and at == '0-0' then read = stream['entries-added'] - stream['length'] + count end
  if not read and to == stream['last-generated-id'] then read = stream['entries-added'] end
  if read then
    redis.call('XGROUP', 'SETID', key, group, to, 'ENTRIESREAD', read)
  else
    redis.call('XGROUP', 'SETID', key, group, to)
  end
  return to
end

-- The most entries that are counted one by one.
local COUNTED = 1000

-- lost KEY group noted
-- lost KEY group position after ahead
-- Finds entries that others have removed before the group had read them, and adds them to what it has read: they are found once. Of a
-- group with one reader, `ahead` entries behind its position were read, the last of them `after`; the group has moved where `position`
-- is not its position. Without these, Redis hands the entries out, and `noted` is the group's position at the last call. Returns the position, how many entries are lost, and, where they
-- were the first behind `after`, the first that is left.
local function lost(keys, args)
  local key, group = keys[1], args[1]
  local stream, fields = stream_and_group(key, group)
  if not fields then return no_group(key, group) end
  local at, read, added = fields['last-delivered-id'], fields['entries-read'], stream['entries-added']
  local is_handed_out = #args == 2
  local after, first = is_handed_out and at or args[3], stream['first-entry']
  local nothing = {at, 0, ''}
  if not is_handed_out and args[2] ~= at then return nothing end
  -- The append-only file of Redis 7.0 does not say how many entries were handed out, and a restart would forget it.
  if is_handed_out and args[2] ~= at and read then redis.call('XGROUP', 'SETID', key, group, at, 'ENTRIESREAD', read) end
  local left, first_left = 0, ''
  if not before(after, stream['last-generated-id']) then
    if is_handed_out then
      if read ~= added then redis.call('XGROUP', 'SETID', key, group, at, 'ENTRIESREAD', added) end
      return nothing
    end
  elseif not first then
    left = 0
  elseif before(after, first[1]) then
    left, first_left = stream['length'], first[1]
  elseif not is_handed_out then
    left = #redis.call('XRANGE', key, '(' .. after, '+', 'COUNT', COUNTED + 1)
    if left > COUNTED then return nothing end
  else
    return nothing
  end
  local missing = read and added - read - (args[4] or 0) - left
  if not missing or missing <= 0 then return nothing end
  redis.call('XGROUP', 'SETID', key, group, at, 'ENTRIESREAD', read + missing)
  return {at, missing, first_left}
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
    local age = now - members[i + 1]
    if age > tonumber(args[2]) then
      redis.call('HDEL', keys[1], members[i])
    else
      -- The clock was set back: who does not speak again ends in time all the same.
      if age < 0 then redis.call('HSET', keys[1], members[i], now) end
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

-- The index of a partition's symbols with open candles is a sorted set; a symbol's score is the term of the owner that
-- has noted it last. Terms grow from owner to owner, so one that has lost its lease without knowing takes nothing away.

-- take_up KEY
-- Begins a new owner's term. Returns the term and the symbols, which are the new owner's from now on.
local function take_up(keys)
  if redis.call('TYPE', keys[1]).ok == 'set' then -- as version 1 kept it
    local symbols = redis.call('SMEMBERS', keys[1])
    redis.call('DEL', keys[1])
    for _, symbol in ipairs(symbols) do redis.call('ZADD', keys[1], 0, symbol) end
  end
  local time = redis.call('TIME')
  local term = time[1] * 1000000 + time[2]
  local last = redis.call('ZRANGE', keys[1], -1, -1, 'WITHSCORES')
  if last[2] and tonumber(last[2]) >= term then term = tonumber(last[2]) + 1 end
  local symbols = redis.call('ZRANGE', keys[1], 0, -1)
  for _, symbol in ipairs(symbols) do redis.call('ZADD', keys[1], term, symbol) end
  return {string.format('%.0f', term), symbols}
end

-- complete_since KEY
-- Returns since when, in ms since 1970, this Redis has held every candle of a partition. Where it does not know, it is new or was
-- emptied, and that is now.
local function complete_since(keys)
  local since = redis.call('GET', keys[1])
  if not since then
    local time = redis.call('TIME')
    since = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
    redis.call('SET', keys[1], since)
  end
  return since
end

-- opened KEY term symbol ...
local function opened(keys, args)
  for i = 2, #args do redis.call('ZADD', keys[1], 'GT', args[1], args[i]) end
end

-- closed KEY term symbol ...
local function closed(keys, args)
  for i = 2, #args do
    local term = redis.call('ZSCORE', keys[1], args[i])
    if term and tonumber(term) <= tonumber(args[1]) then redis.call('ZREM', keys[1], args[i]) end
  end
end

-- give_back KEY group
-- Sets a group back to the oldest entry and takes its consumers out, with all that is pending: it will have one reader, by position.
local function give_back(keys, args)
  redis.call('XGROUP', 'SETID', keys[1], args[1], '0')
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', keys[1], args[1])) do
    redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], named(info)['name'])
  end
end

-- retire KEY group idle_ms
-- Takes consumers out of a group that have not been heard of for so long and have nothing pending. Returns their names.
local function retire(keys, args)
  local retired = {}
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', keys[1], args[1])) do
    local fields = named(info)
    if fields['pending'] == 0 and fields['idle'] > tonumber(args[2]) then
      redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], fields['name'])
      retired[#retired + 1] = fields['name']
    end
  end
  return retired
end

-- At the memory limit producers must wait, and the workers must not: their work is what frees memory.
local function register(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end
register('storage_put', put)
register('storage_advance', advance)
register('storage_lost', lost)
register('storage_announce', announce)
register('storage_take_up', take_up)
register('storage_complete_since', complete_since)
register('storage_opened', opened)
register('storage_closed', closed)
register('storage_give_back', give_back)
register('storage_retire', retire)
register('storage_lease', lease)
register('storage_release', release)
register('storage_join', join)
redis.register_function{
  function_name = 'storage_version',
  callback = function() return VERSION end,
  flags = {'no-writes', 'allow-stale'},
}
