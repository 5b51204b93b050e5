#!lua name=market_storage
-- Atomic steps. Each function uses one key, or several of one slot, so that all of them run on Redis Cluster.
-- `aggregator-admin migrate` loads the library. Raise VERSION with every change of behaviour; a worker refuses an older
-- library.
local VERSION = 8

-- Returns true if revision `a` is newer than `b`. Lua's doubles can't hold revisions exactly, so they are compared as
-- decimal text.
local function newer(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

-- Converts a flat reply into a table of fields by name.
local function named(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- Time for which a key of another type is kept, in ms.
local FOREIGN_TTL_MS = 7 * 24 * 3600 * 1000

-- Returns fields of a hash. A key of another type, which another client has written, is moved to `foreign:{KEY}`, which
-- is in the same slot; then the second result is true.
local function hash_fields(key, ...)
  local values = redis.pcall('HMGET', key, ...)
  if not values.err then return values, false end
  local foreign = 'foreign:{' .. key .. '}'
  redis.call('RENAME', key, foreign)
  redis.call('PEXPIRE', foreign, FOREIGN_TTL_MS)
  return {}, true
end

-- put KEY revision expire_command expire_ms channel message field value ...
-- Writes a whole hash and publishes it, unless the hash has a newer revision, or the same revision and is final while
-- this one is not: such a write comes late from a stalled writer. Returns 1 if written.
local function put(keys, args)
  local stored = hash_fields(keys[1], 'revision', 'final')
  if stored[1] and newer(stored[1], args[1]) then return 0 end
  if stored[1] == args[1] and stored[2] == '1' and named({unpack(args, 6)})['final'] == '0' then return 0 end
  redis.call('HSET', keys[1], 'revision', args[1], unpack(args, 6))
  redis.call(args[2], keys[1], args[3])
  if args[4] ~= '' then redis.call('PUBLISH', args[4], args[5]) end
  return 1
end

-- put_all KEY ... item ...
-- Writes and publishes several hashes of one slot, with an item for each key:
--
--   revision base expire_ms renew channel message count field value ...
--
-- `count` is the number of fields and values, of which `final` is the last field of a candle. An item without a `base`
-- is a whole hash, guarded as by `put`. An item with a `base` contains the fields that differ from the hash of that
-- revision, so it is written only onto that hash. A key that did not exist, or with `renew` 1, expires after
-- `expire_ms`. Returns for each item 1 if written, 0 if the hash is newer, 2 if it has to be written whole, and 3 if it
-- has to be written whole because a key of another type was moved aside.
local function put_all(keys, args)
  local results, at = {}, 1
  for k = 1, #keys do
    local key, revision, base = keys[k], args[at], args[at + 1]
    local fields, last = at + 7, at + 6 + args[at + 6]
    local values, was_foreign = hash_fields(key, 'revision')
    local stored = values[1]
    local is_same = stored and (stored == revision or stored == base)
    local is_reopened = is_same and args[last] == '0' and redis.call('HGET', key, 'final') == '1'
    if is_reopened or stored and newer(stored, revision) then
      results[k] = 0
    elseif was_foreign then
      results[k] = 3
    elseif base ~= '' and stored ~= base then
      results[k] = 2
    else
      redis.call('HSET', key, unpack(args, fields, last))
      if not stored or args[at + 3] == '1' then redis.call('PEXPIRE', key, args[at + 2]) end
      redis.call('PUBLISH', args[at + 4], args[at + 5])
      results[k] = 1
    end
    at = last + 1
  end
  return results
end

-- Returns true if the ID `a` is before `b`.
local function before(a, b)
  local a_ms, a_seq = a:match('(%d+)-(%d+)')
  local b_ms, b_seq = b:match('(%d+)-(%d+)')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_seq) < tonumber(b_seq)
end

-- Returns the fields of a stream and of one of its groups; nothing if the group does not exist.
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
-- Moves the position of a group from `from` to `to`, and returns the position. The position stays if it is not `from`,
-- as another client has moved it, or if this server lacks the entry `to`: that entry was read from another server
-- before a failover, and this server may hold other entries before it. `count`, the number of entries from `from` to
-- `to`, keeps the lag known.
local function advance(keys, args)
  local key, group, from, to, count = keys[1], args[1], args[2], args[3], tonumber(args[4])
  local stream, fields = stream_and_group(key, group)
  if not fields then return no_group(key, group) end
  local at, read, first = fields['last-delivered-id'], fields['entries-read'], stream['first-entry']
  read = read and read + count
  if at ~= from then return at end
  if #redis.call('XRANGE', key, to, to) == 0 then
    -- This server had the entry, and another client has trimmed it since: no entry up to it is left, and at least
    -- `read` entries were removed.
    local is_trimmed = not before(stream['last-generated-id'], to) and (not first or before(to, first[1]))
    if not (is_trimmed and read and stream['entries-added'] - stream['length'] >= read) then return at end
  end
  -- If Redis does not know the number of entries read: at the start it is the number of trimmed entries, at the end
  -- that of all.
  if not read and at == '0-0' then read = stream['entries-added'] - stream['length'] + count end
  if not read and to == stream['last-generated-id'] then read = stream['entries-added'] end
  if read then
    redis.call('XGROUP', 'SETID', key, group, to, 'ENTRIESREAD', read)
  else
    redis.call('XGROUP', 'SETID', key, group, to)
  end
  return to
end

-- Limits of the entries that `lost` counts one by one, and of their size.
local COUNTED, COUNTED_BYTES = 1000, 4e6

-- Returns the number of entries of a stream after an ID; nil if there are more than COUNTED, or if they are larger than
-- COUNTED_BYTES together: Redis does nothing else while it copies them.
local function count_after(key, after)
  local count, bytes, step = 0, 0, 16
  repeat
    local entries = redis.call('XRANGE', key, '(' .. after, '+', 'COUNT', step)
    count = count + #entries
    if #entries < step then return count end
    for _, entry in ipairs(entries) do
      for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    end
    after = entries[#entries][1]
  until count > COUNTED or bytes > COUNTED_BYTES
end

-- lost KEY group checked
-- lost KEY group position after ahead
-- Counts the entries that other clients removed before the group had read them, and adds them to the number of entries
-- read, so that each is found once. In the first form Redis delivers the entries, and `checked` is the position of the
-- group at the last call. If Redis does not know how many entries that group has read, as after its position was set by
-- an ID, entries are counted from this call on. In the second form the group has one reader, which has read `ahead`
-- entries after `position`, the last of them `after`; nothing is counted if `position` is not the position of the
-- group. Returns the position, the number of lost entries, and, if they came directly after `after`, the first entry
-- that is left.
local function lost(keys, args)
  local key, group = keys[1], args[1]
  local stream, fields = stream_and_group(key, group)
  if not fields then return no_group(key, group) end
  local at, read, added = fields['last-delivered-id'], fields['entries-read'], stream['entries-added']
  local is_delivered = #args == 2
  local after, first = is_delivered and at or args[3], stream['first-entry']
  local nothing = {at, 0, ''}
  if not is_delivered and args[2] ~= at then return nothing end
  -- The append-only file of Redis 7.0 does not contain the number of delivered entries, so it would be lost with a
  -- restart.
  if is_delivered and args[2] ~= at and read then redis.call('XGROUP', 'SETID', key, group, at, 'ENTRIESREAD', read) end
  local left, first_left = 0, ''
  if not before(after, stream['last-generated-id']) then
    if is_delivered then
      if read ~= added then redis.call('XGROUP', 'SETID', key, group, at, 'ENTRIESREAD', added) end
      return nothing
    end
  elseif not first then
    left = 0
  elseif before(after, first[1]) then
    left, first_left = stream['length'], first[1]
  elseif not is_delivered or not read then
    left = count_after(key, after)
    if not left then return nothing end
  else
    return nothing
  end
  if is_delivered and not read then
    redis.call('XGROUP', 'SETID', key, group, at, 'ENTRIESREAD', added - left)
    return nothing
  end
  local missing = read and added - read - (args[4] or 0) - left
  if not missing or missing <= 0 then return nothing end
  redis.call('XGROUP', 'SETID', key, group, at, 'ENTRIESREAD', read + missing)
  return {at, missing, first_left}
end

-- lease KEY owner ttl_ms
-- Acquires a free lease, or renews the owner's lease. Returns 1 if the owner holds it.
local function lease(keys, args)
  local owner = redis.call('GET', keys[1])
  if owner and owner ~= args[1] then return 0 end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  return 1
end

-- release KEY owner
-- Releases the lease if the owner holds it.
local function release(keys, args)
  if redis.call('GET', keys[1]) == args[1] then return redis.call('DEL', keys[1]) end
  return 0
end

-- join KEY member ttl_ms
-- Renews a membership, and returns the members whose last renewal is not older than `ttl_ms` by the clock of Redis.
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
      -- The clock was set back; a member that does not renew must expire anyway.
      if age < 0 then redis.call('HSET', keys[1], members[i], now) end
      live[#live + 1] = members[i]
    end
  end
  return live
end

-- announce KEY field value ...
-- Adds an entry for another worker.
local function announce(keys, args)
  return redis.call('XADD', keys[1], '*', unpack(args))
end

-- The index of a partition's symbols with open candles is a sorted set. The score of a symbol is the epoch of the owner
-- that has added it last. Each owner gets a higher epoch, so an owner that has lost its lease without noticing removes
-- no symbol of the next one.

-- take_up KEY
-- Begins the epoch of a new owner. Returns the epoch and the symbols, whose score it becomes.
local function take_up(keys)
  if redis.call('TYPE', keys[1]).ok == 'set' then -- the type in version 1
    local symbols = redis.call('SMEMBERS', keys[1])
    redis.call('DEL', keys[1])
    for _, symbol in ipairs(symbols) do redis.call('ZADD', keys[1], 0, symbol) end
  end
  local time = redis.call('TIME')
  local epoch = time[1] * 1000000 + time[2]
  local last = redis.call('ZRANGE', keys[1], -1, -1, 'WITHSCORES')
  if last[2] and tonumber(last[2]) >= epoch then epoch = tonumber(last[2]) + 1 end
  local symbols = redis.call('ZRANGE', keys[1], 0, -1)
  for _, symbol in ipairs(symbols) do redis.call('ZADD', keys[1], epoch, symbol) end
  return {string.format('%.0f', epoch), symbols}
end

-- complete_since KEY
-- Returns the time since which this Redis has held every candle of a partition, in ms since 1970. A Redis without a
-- record is new or was emptied, and records the present time.
local function complete_since(keys)
  local since = redis.call('GET', keys[1])
  if not since then
    local time = redis.call('TIME')
    since = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
    redis.call('SET', keys[1], since)
  end
  return since
end

-- opened KEY epoch symbol ...
-- Adds symbols to the index.
local function opened(keys, args)
  for i = 2, #args do redis.call('ZADD', keys[1], 'GT', args[1], args[i]) end
end

-- closed KEY epoch symbol ...
-- Removes symbols from the index, except those that a later epoch has added.
local function closed(keys, args)
  for i = 2, #args do
    local epoch = redis.call('ZSCORE', keys[1], args[i])
    if epoch and tonumber(epoch) <= tonumber(args[1]) then redis.call('ZREM', keys[1], args[i]) end
  end
end

-- give_back KEY group
-- Resets a group to the oldest entry, and removes its consumers with their pending entries, for a reader that reads by
-- position.
local function give_back(keys, args)
  redis.call('XGROUP', 'SETID', keys[1], args[1], '0')
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', keys[1], args[1])) do
    redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], named(info)['name'])
  end
end

-- Number of entries that `reset_ids` removes with one command.
local REMOVED_TOGETHER = 1000

-- reset_ids KEY first next
-- Lets Redis generate IDs from `next` on again, after a client has added an entry with an ID of the far future: removes
-- the entries from the ID `first` on. Fails if a group has not finished every entry. Returns the number removed.
local function reset_ids(keys, args)
  local key, first, last, removed = keys[1], args[1], args[2], 0
  local groups = redis.call('XINFO', 'GROUPS', key)
  for _, info in ipairs(groups) do
    local fields = named(info)
    local at = fields['last-delivered-id']
    if fields['pending'] > 0 or #redis.call('XRANGE', key, '(' .. at, '+', 'COUNT', 1) > 0 then
      return redis.error_reply('UNFINISHED ' .. fields['name'] .. ' has not finished every entry of ' .. key)
    end
  end
  local added = named(redis.call('XINFO', 'STREAM', key))['entries-added']
  repeat
    local ids = {}
    for i, entry in ipairs(redis.call('XRANGE', key, first, '+', 'COUNT', REMOVED_TOGETHER)) do ids[i] = entry[1] end
    if #ids > 0 then removed = removed + redis.call('XDEL', key, unpack(ids)) end
  until #ids == 0
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if newest and before(last, newest[1]) then last = newest[1] end
  -- With a removed entry after the position of a group its lag would be unknown.
  redis.call('XSETID', key, last, 'ENTRIESADDED', added, 'MAXDELETEDID', '0-1')
  for _, info in ipairs(groups) do
    redis.call('XGROUP', 'SETID', key, named(info)['name'], last, 'ENTRIESREAD', added)
  end
  return removed
end

-- retire KEY group idle_ms
-- Removes the consumers of a group that have been idle for longer than `idle_ms` and have no pending entries. Returns
-- their names.
local function retire(keys, args)
  local removed = {}
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', keys[1], args[1])) do
    local fields = named(info)
    if fields['pending'] == 0 and fields['idle'] > tonumber(args[2]) then
      redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], fields['name'])
      removed[#removed + 1] = fields['name']
    end
  end
  return removed
end

-- At the memory limit producers must wait but workers must not, as their work frees memory.
local function register(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end
register('storage_put', put)
register('storage_put_all', put_all)
register('storage_advance', advance)
register('storage_lost', lost)
register('storage_announce', announce)
register('storage_take_up', take_up)
register('storage_complete_since', complete_since)
register('storage_opened', opened)
register('storage_closed', closed)
register('storage_give_back', give_back)
register('storage_reset_ids', reset_ids)
register('storage_retire', retire)
register('storage_lease', lease)
register('storage_release', release)
register('storage_join', join)
redis.register_function{
  function_name = 'storage_version',
  callback = function() return VERSION end,
  flags = {'no-writes', 'allow-stale'},
}
