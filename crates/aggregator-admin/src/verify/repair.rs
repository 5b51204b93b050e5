//! Mends what was found wrong: minutes from their ticks, then larger candles from their minutes.

use anyhow::Context;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::candles::{delete_1m_without_ticks, lock_partition, lower_revision_1m};
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::rollups::Scope;
use storage_core::redis::stream::Stream;

use super::{Class, Finding, Verifier};
use crate::minute::minute;
use crate::recompute::{Outcome, Repaired, publish, recompute};
use crate::rollups::refresh;

/// Mends `findings`. Only `force` reduces the trades of a minute or removes a minute without ticks. Returns the
/// positions to which warm-syncer was moved back.
pub(crate) async fn repair(
    verifier: &mut Verifier<'_>,
    findings: &[Finding],
    force: bool,
) -> anyhow::Result<Vec<(Stream, StreamId)>> {
    let partitions = crate::stores::partitions(&mut verifier.redis).await?;
    let moved = verifier.read_again(partitions, findings).await?;
    let mut ranges = Vec::new();
    for finding in findings {
        let start_us = finding.difference.time.timestamp_micros();
        ranges.push(TimeRange {
            from_us: start_us,
            to_us: start_us + finding.timeframe.micros(),
        });
        match finding.class {
            Class::Larger | Class::TicksInStream => {}
            Class::TicksMissing if !force => {}
            Class::TicksMissing if finding.difference.expected.is_none() => {
                remove(verifier, partitions, &finding.difference.symbol, start_us).await?;
            }
            Class::Minute | Class::TicksMissing => {
                let symbol: Symbol = finding.difference.symbol.parse()?;
                compute(verifier, partitions, &symbol, start_us, force).await?;
            }
        }
    }
    let ranges = TimeRange::merge(ranges, 0);
    let edition = verifier.server.edition;
    refresh::run(&mut verifier.connection, edition, &ranges, Scope::All, |_, _| Ok(())).await?;
    Ok(moved)
}

async fn compute(
    verifier: &mut Verifier<'_>,
    partitions: u16,
    symbol: &Symbol,
    start_us: i64,
    force: bool,
) -> anyhow::Result<()> {
    let Verifier { connection, redis, .. } = verifier;
    let computed = recompute(connection, redis, partitions, symbol, start_us, force)
        .await
        .context("computing a minute from its ticks")?;
    let Some(repaired) = computed else { return Ok(()) };
    publish(redis, symbol, &repaired.candle).await?;
    correct_revision(connection, partitions, symbol, &repaired).await
}

/// Lowers the revision of a minute that was computed from its ticks to that of the last one. The computation keeps the
/// higher one, because a candle may be on its way; an operator's command is run when none is.
pub(crate) async fn correct_revision(
    connection: &mut AsyncPgConnection,
    partitions: u16,
    symbol: &Symbol,
    Repaired { candle, outcome, .. }: &Repaired,
) -> anyhow::Result<()> {
    if *outcome != Outcome::FromTicks {
        return Ok(());
    }
    connection
        .transaction(async |connection| {
            lock_partition(connection, partition_of(symbol, partitions)).await?;
            lower_revision_1m(connection, symbol, candle.start_us, candle.revision).await
        })
        .await
        .explained("correcting the revision of a minute")?;
    Ok(())
}

/// Removes a minute without ticks, unless retention may have dropped them.
async fn remove(verifier: &mut Verifier<'_>, partitions: u16, symbol: &str, start_us: i64) -> anyhow::Result<()> {
    let partition = symbol
        .parse()
        .ok()
        .map(|symbol: Symbol| partition_of(&symbol, partitions));
    verifier
        .connection
        .transaction(async |connection| {
            if let Some(partition) = partition {
                lock_partition(connection, partition).await?;
            }
            let since_us = completeness::first_bucket(connection, "ticks", Timeframe::M1).await?;
            match minute(start_us).from_us < since_us {
                true => Ok(()),
                false => delete_1m_without_ticks(connection, symbol, start_us).await,
            }
        })
        .await
        .explained("removing a minute without ticks")?;
    Ok(())
}
