//! Corrects the latest tick of the hot view after the newest trade was corrected, busted or found to conflict with
//! another one: hot-writer does not know the trade before it.

use std::collections::HashMap;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{AcceptedTick, Side, Tick};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::{symbols, ticks};
use storage_core::redis::codec;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::Put;
use storage_core::redis::hot;
use storage_core::redis::keys;

/// TTL of a written latest tick, in ms.
const TTL_MS: i64 = 3_600_000;

/// Corrects the latest ticks that lie in `minutes`, each of a symbol with its start and a revision. The history has
/// every entry up to this revision. A latest tick of a later entry stays.
pub(crate) async fn correct(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    minutes: &[(&Symbol, i64, Revision)],
) -> anyhow::Result<()> {
    let doing = "correcting the latest tick";
    let names: Vec<_> = minutes.iter().map(|(symbol, ..)| keys::tick_latest(symbol)).collect();
    let times = hot::tick_times(redis, &names).await.context(doing)?;
    for ((symbol, start_us, until), ts_us) in minutes.iter().zip(times) {
        if ts_us.is_none_or(|ts_us| Timeframe::M1.bucket_start_us(ts_us) != *start_us) {
            continue;
        }
        let key = keys::tick_latest(symbol);
        let hash = hot::hash(redis, &key).await.context(doing)?;
        let stored = hash.get("revision").and_then(|revision| revision.parse().ok());
        if stored.is_none_or(|stored: Revision| stored > *until) {
            continue;
        }
        let row = ticks::latest(connection, symbol)
            .await
            .explained("reading the latest tick")?;
        let Some(row) = row else {
            hot::remove(&key).exec_async(redis).await.context(doing)?;
            continue;
        };
        let decimals = symbols::decimals(connection, &[symbol])
            .await
            .explained("reading the decimals of a symbol")?;
        let decimals = decimals.get(*symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
        let latest = AcceptedTick {
            revision: *until,
            ..row.accepted(decimals)
        };
        if !is_same(&hash, &latest.tick) {
            hot::put_all(redis, &[put(&latest, None)]).await.context(doing)?;
        }
    }
    Ok(())
}

/// Returns the write of a latest tick; `base` as in [`Put`].
pub(crate) fn put(accepted: &AcceptedTick, base: Option<Revision>) -> Put {
    let symbol = &accepted.tick.symbol;
    Put {
        key: keys::tick_latest(symbol),
        revision: accepted.revision,
        base,
        ttl_ms: TTL_MS,
        renews_ttl: false,
        channel: keys::tick_channel(symbol),
        message: codec::ticks::message(accepted),
        fields: codec::ticks::hash_fields(accepted),
    }
}

/// Returns `true` if `hash` has the values of `tick`. Its revision may differ.
pub(crate) fn is_same(hash: &HashMap<String, String>, tick: &Tick) -> bool {
    let field = |name: &str| hash.get(name).map_or("", String::as_str);
    field("price").parse() == Ok(tick.price)
        && field("qty").parse::<Decimal>().is_ok_and(|qty| qty == tick.qty)
        && field("ts_us").parse() == Ok(tick.ts_us)
        && field("trade_id") == tick.trade_id.as_deref().unwrap_or_default()
        && field("side") == tick.side.map(Side::as_str).unwrap_or_default()
}
