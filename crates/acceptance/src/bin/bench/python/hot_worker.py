"""The work of hot-writer in plain Python: redis-py with hiredis, a consumer group, one pipeline per batch.

    hot_worker.py URL PARTITIONS BATCH_ENTRIES [TICKS]

Waits for entries of all streams, at most BATCH_ENTRIES of each, folds ticks into candles of six timeframes, writes and
publishes the hashes that a batch changed, adds closed minutes to their stream, and acknowledges. Ends after TICKS
ticks, if they are given, and prints its seconds.
"""

import json
import sys
import time

import redis

TIMEFRAMES = {"1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "4h": 14_400, "1d": 86_400}
TICK_TTL_MS = 3_600_000
GROUP, CONSUMER = "hot-writer", "python"
BLOCK_MS = 1_000


def fold(candles, changed, closed, stream, tick, revision):
    """Folds a tick into its symbol's candles; collects the changed candles and the closed minutes."""
    symbol = tick["symbol"]
    ts_us, price, qty = int(tick["ts_us"]), float(tick["price"]), float(tick["qty"])
    for name, seconds in TIMEFRAMES.items():
        key = (name, symbol)
        start = ts_us // 1_000_000 // seconds * seconds
        candle = candles.get(key)
        if candle is None or candle["time"] < start:
            if candle is not None and name == "1m":
                closed.append((stream, symbol, candle))
            candles[key] = {
                "time": start,
                "open": price,
                "high": price,
                "low": price,
                "close": price,
                "volume": qty,
                "trades": 1,
                "first_us": ts_us,
                "last_us": ts_us,
                "revision": revision,
            }
        else:
            if price > candle["high"]:
                candle["high"] = price
            if price < candle["low"]:
                candle["low"] = price
            candle["close"] = price
            candle["volume"] += qty
            candle["trades"] += 1
            candle["last_us"] = ts_us
            candle["revision"] = revision
        changed.add(key)


def write(pipe, latest, candles, changed, closed):
    """Adds the writes of a batch to the pipeline."""
    for stream, symbol, candle in closed:
        pipe.xadd(stream.replace("ticks", "candles"), {"symbol": symbol, **candle})
    for symbol, tick in latest.items():
        key = f"tick:latest:{symbol}"
        pipe.hset(key, mapping=tick)
        pipe.pexpire(key, TICK_TTL_MS)
        pipe.publish(f"tick:{symbol}", json.dumps(tick))
    for name, symbol in changed:
        candle = candles[name, symbol]
        key = f"candle:current:{name}:{symbol}"
        pipe.hset(key, mapping=candle)
        pipe.pexpire(key, max(TIMEFRAMES[name] * 1_000 + 602_000, TICK_TTL_MS))
        pipe.publish(f"candle:{name}:{symbol}", json.dumps({"symbol": symbol, **candle, "final": False}))


def main():
    url, *numbers = sys.argv[1:]
    partitions, batch_entries, *ticks = map(int, numbers)
    conn = redis.Redis.from_url(url, decode_responses=True)
    streams = {f"stream:ticks:{partition}": ">" for partition in range(partitions)}
    candles, done = {}, 0
    begun = time.perf_counter()
    while not ticks or done < ticks[0]:
        latest, changed, closed = {}, set(), []
        with conn.pipeline(transaction=False) as pipe:
            batch = conn.xreadgroup(GROUP, CONSUMER, streams, count=batch_entries, block=BLOCK_MS)
            for stream, entries in batch or []:
                for entry_id, tick in entries:
                    ms, sequence = entry_id.split("-")
                    revision = int(ms) << 22 | int(sequence)
                    fold(candles, changed, closed, stream, tick, revision)
                    tick["revision"] = revision
                    latest[tick["symbol"]] = tick
                done += len(entries)
            write(pipe, latest, candles, changed, closed)
            for stream, entries in batch or []:
                pipe.xack(stream, GROUP, *[entry_id for entry_id, _ in entries])
            pipe.execute()
    print(time.perf_counter() - begun)


main()
