// What happens inside Redis: the names of a topic's keys, and the Lua scripts, each of which is one atomic step.
//
// A topic has, all in one hash slot:
//   prefix{topic}m      hash: `epoch`, `offset`, and `history`, the replication id under which the epoch began
//   prefix{topic}l      list: the log, oldest first, without holes; an entry is "<offset> <ms at which it expires>\n<payload>"
//   prefix{topic}k:key  string: the position that an idempotency key was given
//   prefix{topic}p      hash: who is present; key → its owners with their leases, as MessagePack
//   prefix{topic}       the pub/sub channel

import { createHash } from "node:crypto";

/** Epoch and offset outlive the messages by so much. Renewed once a day, so that reading seldom writes. */
const META_TTL_MS = 30 * 86_400_000;

/** All that one topic has in Redis. */
export class Keys {
  /** The channel; and the beginning of every key. */
  readonly channel: string;

  constructor(prefix: string, topic: string) {
    // The first "}" ends the hash tag, so a topic may not bring its own.
    this.channel = `${prefix}{${/[%}]/.test(topic) ? topic.replaceAll("%", "%25").replaceAll("}", "%7D") : topic}}`;
  }

  get meta(): string {
    return `${this.channel}m`;
  }

  get log(): string {
    return `${this.channel}l`;
  }

  get presence(): string {
    return `${this.channel}p`;
  }

  idempotency(key: string): string {
    return `${this.channel}k:${key}`;
  }
}

export interface Script {
  readonly source: string;
  readonly sha: string;
}

function script(...parts: string[]): Script {
  // Without keys it does nothing: that loads it, with no other permission than to run it.
  const source = ["if #KEYS == 0 then return end", ...parts].join("\n");
  return { source, sha: createHash("sha1").update(source).digest("hex") };
}

const NOW = `
local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end`;

/** `replid()` → the replication id, which names one unbroken history of the data; or nil and an error to be returned. */
const REPLID = `
local function replid()
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if not id then return nil, redis.error_reply('NOREPLID INFO replication has no master_replid') end
  return id
end`;

/**
 * `stand(meta, log, durable)` → epoch, offset. A Redis that was restarted, or promoted, may have lost a tail, and would
 * give its offsets out again. Both show in the replication id: where it is not the one under which the epoch began, a
 * new epoch begins. What is stored stays, under the same offsets. So does the log of a topic whose meta key was evicted.
 *
 * The first write is one that a full Redis refuses, so nothing is stored half.
 */
const STAND = `
local function stand(meta, log, durable)
  local known = redis.call('HMGET', meta, 'epoch', 'offset', 'history')
  local history = known[3] or 'durable'
  if durable ~= '1' then
    local id, missing = replid()
    if not id then return missing end
    history = id
  end
  if known[1] and known[3] == history then
    if redis.call('PTTL', meta) < ${META_TTL_MS - 86_400_000} then redis.call('PEXPIRE', meta, ${META_TTL_MS}) end
    return known[1], tonumber(known[2])
  end
  local offset = tonumber(known[2] or 0)
  local last = redis.call('LINDEX', log, -1)
  if last then offset = math.max(offset, tonumber(string.match(last, '^%d+'))) end
  local time = redis.call('TIME')
  local seed = table.concat({ meta, history, time[1], time[2], known[1] or '' }, ' ')
  local epoch = string.sub(redis.sha1hex(seed), 1, 12)
  redis.call('HSET', meta, 'epoch', epoch, 'offset', offset, 'history', history)
  redis.call('PEXPIRE', meta, ${META_TTL_MS})
  return epoch, offset
end`;

/** `open(entry)` → offset, when it expires, payload. */
const OPEN = `
local function open(entry)
  local _, stop, offset, expires = string.find(entry, '^(%d+) (%d+)\\n')
  return tonumber(offset), tonumber(expires), string.sub(entry, stop + 1)
end`;

/** `oldest(log, now)` → the offset of the oldest message that has not expired, if any; trims those before it. */
const OLDEST = `
local function oldest(log, now)
  local count, gone = 1, 0
  while true do
    local entries = redis.call('LRANGE', log, gone, gone + count - 1)
    for _, entry in ipairs(entries) do
      local offset, expires = open(entry)
      if expires > now then
        if gone > 0 then redis.call('LTRIM', log, gone, -1) end
        return offset
      end
      gone = gone + 1
    end
    if #entries < count then
      if gone > 0 then redis.call('DEL', log) end
      return nil
    end
    count = 64
  end
end`;

/** KEYS meta, log[, idempotency key]. ARGV durable, publish command, channel, header, payload, size, ttl in ms. */
export const PUBLISH = script(
  NOW,
  REPLID,
  STAND,
  OPEN,
  OLDEST,
  `
local first = KEYS[3] and redis.call('GET', KEYS[3])
if first then return first end
local epoch, offset = stand(KEYS[1], KEYS[2], ARGV[1])
if not offset then return epoch end
offset = offset + 1
local now, ttl = milliseconds(), tonumber(ARGV[7])
local length = redis.call('RPUSH', KEYS[2], string.format('%d %d\\n', offset, now + ttl) .. ARGV[5])
if length > tonumber(ARGV[6]) then redis.call('LTRIM', KEYS[2], -tonumber(ARGV[6]), -1) end
redis.call('HSET', KEYS[1], 'offset', offset)
redis.call('PEXPIRE', KEYS[2], ttl)
local position = epoch .. ' ' .. string.format('%d', offset)
if KEYS[3] then redis.call('SET', KEYS[3], position, 'PX', ttl) end
if offset % 64 == 0 then oldest(KEYS[2], now) end
redis.call(ARGV[2], ARGV[3], position .. ARGV[4] .. ARGV[5])
return position`,
);

/** KEYS meta, log, meta, log, … ARGV durable. → epoch, offset, epoch, offset, … */
export const POSITIONS = script(
  REPLID,
  STAND,
  `
local reply = {}
for i = 1, #KEYS, 2 do
  local epoch, offset = stand(KEYS[i], KEYS[i + 1], ARGV[1])
  if not offset then return epoch end
  reply[i], reply[i + 1] = epoch, offset
end
return reply`,
);

/**
 * KEYS meta, log. ARGV durable, messages, bytes, `after` | `before` | `last`, offset or count, epoch.
 * → epoch, newest offset, recovered, complete, offset, payload, offset, payload, … (for `before`: newest first)
 */
export const READ = script(
  NOW,
  REPLID,
  STAND,
  OPEN,
  OLDEST,
  `
local epoch, newest = stand(KEYS[1], KEYS[2], ARGV[1])
if not newest then return epoch end
local most, bytes, kind, number = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local first = oldest(KEYS[2], milliseconds()) or newest + 1
local from, to, recovered = nil, newest, 1
local lost = { epoch, newest, 0, 1 }
if kind == 'last' then
  from, recovered = math.max(first, newest - number + 1), 0
elseif ARGV[6] ~= epoch or number > newest + (kind == 'before' and 1 or 0) then
  return lost
elseif kind == 'before' then
  from, to = number - 1, first
else
  if number < newest and number + 1 < first then return lost end
  from = number + 1
end
local step = kind == 'before' and -1 or 1
local reply, taken = { epoch, newest, recovered, 1 }, 0
while (to - from) * step >= 0 do
  if taken == most then
    reply[4] = 0
    return reply
  end
  local low = from - first
  local high = low + math.min(15, most - taken - 1)
  if step == -1 then low, high = math.max(0, low - high + low), low end
  local entries = redis.call('LRANGE', KEYS[2], low, high)
  if #entries == 0 then return lost end
  for i = step == 1 and 1 or #entries, step == 1 and #entries or 1, step do
    local offset, _, payload = open(entries[i])
    if offset ~= from then return lost end
    bytes = bytes - #payload
    if taken > 0 and bytes < 0 then
      reply[4] = 0
      return reply
    end
    reply[#reply + 1], reply[#reply + 2] = offset, payload
    taken, from = taken + 1, from + step
  end
end
return reply`,
);

/** Owners whose lease is not over, of one field of the presence hash: { owner, until, info, owner, until, info, … }. */
const OWNERS = `
local function owners(packed, now)
  local kept = {}
  if not packed then return kept end
  local all = cmsgpack.unpack(packed)
  for i = 1, #all, 3 do
    if all[i + 1] > now then
      kept[#kept + 1], kept[#kept + 2], kept[#kept + 3] = all[i], all[i + 1], all[i + 2]
    end
  end
  return kept
end
local function without(all, owner)
  local kept = {}
  for i = 1, #all, 3 do
    if all[i] ~= owner then
      kept[#kept + 1], kept[#kept + 2], kept[#kept + 3] = all[i], all[i + 1], all[i + 2]
    end
  end
  return kept
end`;

/** KEYS presence. ARGV key, owner, info, lease in ms, publish command, channel, head. → 1: the key was not there before. */
export const PUT = script(
  NOW,
  OWNERS,
  `
local now, lease = milliseconds(), tonumber(ARGV[4])
local all = owners(redis.call('HGET', KEYS[1], ARGV[1]), now)
local before, renewed = all[#all], false
for i = 1, #all, 3 do
  if all[i] == ARGV[2] and all[i + 2] == ARGV[3] then all[i + 1], renewed = now + lease, true end
end
if not renewed then
  all = without(all, ARGV[2])
  all[#all + 1], all[#all + 2], all[#all + 3] = ARGV[2], now + lease, ARGV[3]
end
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(all))
if redis.call('PTTL', KEYS[1]) < lease then redis.call('PEXPIRE', KEYS[1], lease) end
if all[#all] ~= before then redis.call(ARGV[5], ARGV[6], ARGV[7] .. all[#all]) end
return before and 0 or 1`,
);

/** KEYS presence. ARGV key, owner, publish command, channel, head. → 1: that was the key's last owner. */
export const REMOVE = script(
  NOW,
  OWNERS,
  `
local there = owners(redis.call('HGET', KEYS[1], ARGV[1]), milliseconds())
local left = without(there, ARGV[2])
local before, after = there[#there], left[#left]
if not after then
  redis.call('HDEL', KEYS[1], ARGV[1])
elseif #left < #there then
  redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(left))
end
if after ~= before then redis.call(ARGV[3], ARGV[4], ARGV[5] .. (after or '')) end
return before and not after and 1 or 0`,
);

/** KEYS presence. ARGV durable. → epoch, key, info, key, info, … Forgets the keys of which nobody is left. */
export const LIST = script(
  NOW,
  REPLID,
  OWNERS,
  `
local epoch, missing = replid()
if not epoch and ARGV[1] ~= '1' then return missing end
local now, reply = milliseconds(), { epoch or '' }
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local there = owners(all[i + 1], now)
  if #there == 0 then
    redis.call('HDEL', KEYS[1], all[i])
  else
    reply[#reply + 1], reply[#reply + 2] = all[i], there[#there]
  end
end
return reply`,
);

export const SCRIPTS = [PUBLISH, POSITIONS, READ, PUT, REMOVE, LIST] as const;
