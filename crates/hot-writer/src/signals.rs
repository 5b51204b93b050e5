//! Activates signals: from `stream:signals` to `signal:active:*`.

use std::time::Duration;

use anyhow::Context;
use redis::pipe;
use storage_core::domain::entry::Entry;
use storage_core::domain::prices::check_price;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::signal::Signal;
use storage_core::domain::time::ms_to_us;
use storage_core::redis::clock::now_ms;
use storage_core::redis::codec::{dead, signals};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, Expiry};
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::keys;
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::redis::symbols::SymbolProperties;
use storage_core::retry::keep_running;
use storage_core::telemetry::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics;

const BLOCK: Duration = Duration::from_millis(250);
const BATCH: usize = 500;

/// Activates signals until `token` is cancelled. A failed read or write is retried, and `readiness` reports it.
pub(crate) async fn activate(
    config: Config,
    readiness: Readiness,
    losses: Losses,
    token: CancellationToken,
) -> anyhow::Result<()> {
    keep_running("signals", &readiness, &token, async || {
        let options = GroupReaderOptions {
            group: HOT_WRITER,
            consumer: config.service.instance(&config.telemetry),
            batch: BATCH,
            block: BLOCK,
            claim_after: config.hot.claim_after,
            losses: losses.clone(),
        };
        let mut conn = Connection::ordinary(&config.redis);
        let mut reader = GroupReader::new(&config.redis, Stream::Signals, options);
        while !token.is_cancelled() {
            activate_batch(&mut reader, &mut conn, config.stream.before_1973).await?;
            readiness.ok("signals");
        }
        Ok(())
    })
    .await;
    Ok(())
}

async fn activate_batch(reader: &mut GroupReader, conn: &mut Connection, before_1973: bool) -> anyhow::Result<()> {
    let entries = reader.read().await.context("reading signals")?;
    if entries.is_empty() {
        return Ok(());
    }
    let signals: Vec<_> = entries
        .iter()
        .map(|entry| Signal::from_entry(entry, before_1973))
        .collect();
    let symbols = if signals.iter().flatten().any(|signal| signal.price <= 0.0) {
        let loaded = SymbolProperties::load(conn).await;
        loaded.context("reading the properties of symbols")?
    } else {
        SymbolProperties::default()
    };
    let now_us = ms_to_us(now_ms(conn).await.context("reading the clock")?);
    let mut writes = pipe();
    for (entry, signal) in entries.iter().zip(signals) {
        let signal = signal.and_then(|signal| {
            check_price(&signal.symbol, signal.price, symbols.prices(&signal.symbol))?;
            Ok(signal)
        });
        writes.add_command(command(entry, signal, now_us)).ignore();
    }
    writes.exec_async(conn).await.context("writing signals")?;
    let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
    reader.acknowledge(&ids).await.context("acknowledging signals")
}

/// Returns the command that writes the `signal` of an entry as an active signal or a dead letter. An expired signal is
/// published, too; its hash expires immediately.
fn command(entry: &Entry, signal: Result<Signal, Rejection>, now_us: i64) -> redis::Cmd {
    match signal {
        Ok(signal) => {
            let counter = if signal.expires_us > now_us {
                &metrics::SIGNALS_ACTIVATED
            } else {
                &metrics::SIGNALS_EXPIRED
            };
            counter.increment(1);
            let channel = keys::signal_channel(&signal.symbol);
            let message = signals::message(&signal);
            let expiry = Expiry::AtMs(signal.expires_us / 1_000);
            let key = keys::signal_active(&signal.symbol);
            functions::put(
                &key,
                signal.revision,
                expiry,
                Some((&channel, &message)),
                &signals::hash_fields(&signal),
            )
        }
        Err(reason) => {
            metrics::DEAD_LETTERS.increment(reason.label(), 1);
            let letter = dead::DeadLetter::new(Stream::Signals, entry, &reason);
            functions::announce(Stream::Dead, &dead::entry_fields(&letter))
        }
    }
}
