"""Drains candles or ticks from Redis streams into TimescaleDB as a plain Python worker: a consumer group, and for each
batch one COPY into a staging table, one upsert from there, one commit and one XACK.

Prints, as JSON, the number of entries and the seconds from the first reply to the last XACK.
"""

import argparse
import json
import time
from decimal import Decimal

import psycopg
import redis

LOTS = 10**8

CANDLES = {
    "staging": """CREATE TEMP TABLE staging (LIKE candles_1m) ON COMMIT DELETE ROWS""",
    "copy": "COPY staging (time, symbol, open, high, low, close, volume, trades, revision) FROM STDIN",
    "upsert": """
        INSERT INTO candles_1m (time, symbol, open, high, low, close, volume, trades, revision)
        SELECT DISTINCT ON (symbol, time) time, symbol, open, high, low, close, volume, trades, revision
        FROM staging ORDER BY symbol, time, revision DESC
        ON CONFLICT (symbol, time) DO UPDATE SET
            open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
            volume = excluded.volume, trades = excluded.trades, revision = excluded.revision
        WHERE candles_1m.revision < excluded.revision""",
}

TICKS = {
    "staging": """CREATE TEMP TABLE staging (LIKE ticks) ON COMMIT DELETE ROWS""",
    "copy": "COPY staging (time, symbol, price, lots, side, trade_no, trade_key, revision) FROM STDIN",
    "upsert": """
        INSERT INTO ticks (time, symbol, price, lots, side, trade_no, trade_key, revision)
        SELECT DISTINCT ON (symbol, time, trade_no, trade_key)
            time, symbol, price, lots, side, trade_no, trade_key, revision
        FROM staging ORDER BY symbol, time, trade_no, trade_key, revision
        ON CONFLICT (symbol, time, trade_no, trade_key) DO NOTHING""",
}


def candle_row(entry_id, fields):
    return (
        fields["time"],
        fields["symbol"],
        fields["open"],
        fields["high"],
        fields["low"],
        fields["close"],
        int(Decimal(fields["volume"]) * LOTS),
        fields["trades"],
        fields["revision"],
    )


def tick_row(entry_id, fields):
    ms, seq = entry_id.split("-")
    ts_us = int(fields["ts_us"])
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ts_us // 1_000_000)) + f".{ts_us % 1_000_000:06}+00",
        fields["symbol"],
        fields["price"],
        int(Decimal(fields["qty"]) * LOTS),
        fields["side"],
        fields["trade_id"],
        "",
        int(ms) << 22 | int(seq),
    )


def write(database, sql, rows):
    with database.cursor() as cursor:
        with cursor.copy(sql["copy"]) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(sql["upsert"])
    database.commit()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["candles", "ticks"])
    parser.add_argument("--redis", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="entries of one stream in a transaction")
    parser.add_argument("--entries", type=int, required=True, help="when to stop")
    args = parser.parse_args()
    sql, to_row = (CANDLES, candle_row) if args.kind == "candles" else (TICKS, tick_row)

    stream_server = redis.Redis.from_url(args.redis, decode_responses=True)
    streams = {f"stream:{args.kind}:{partition}": ">" for partition in range(args.partitions)}
    for stream in streams:
        stream_server.xgroup_create(stream, "python", id="0", mkstream=True)

    with psycopg.connect(args.database) as database:
        database.execute(sql["staging"])
        database.commit()
        done, begun = 0, None
        while done < args.entries:
            reply = stream_server.xreadgroup("python", "worker", streams, count=args.batch, block=1000)
            if not reply:
                break
            begun = begun or time.perf_counter()
            for stream, entries in reply:
                write(database, sql, [to_row(entry_id, fields) for entry_id, fields in entries])
                stream_server.xack(stream, "python", *(entry_id for entry_id, _ in entries))
                done += len(entries)
        seconds = time.perf_counter() - begun

    for stream in streams:
        stream_server.xgroup_destroy(stream, "python")
    print(json.dumps({"entries": done, "seconds": seconds}))


main()
