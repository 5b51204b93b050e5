//! Refreshes buckets, smallest timeframe first, because each timeframe is computed from the next smaller one.

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::rollups::{self, Scope};

use super::ranges::{LARGER, touched};

/// Refreshes the buckets that `ranges` touch and whose source changed, and calls `done` after each timeframe.
pub(crate) async fn buckets(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run(connection, edition, ranges, Scope::Changed, done).await
}

/// Refreshes the buckets of `scope` that `ranges` touch, and calls `done` after each timeframe.
pub(crate) async fn run(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    scope: Scope,
    mut done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut complete_since = record_dropped_minutes(connection, edition).await?;
    loop {
        for timeframe in LARGER {
            let begin = Instant::now();
            rollups::refresh(connection, edition, timeframe, &touched(ranges, timeframe), scope)
                .await
                .explained(&format!("refreshing {timeframe} candles"))?;
            done(timeframe, begin.elapsed())?;
        }
        // Minutes that were dropped meanwhile may have been missing when they were read, so the refresh is repeated.
        let now = record_dropped_minutes(connection, edition).await?;
        if std::mem::replace(&mut complete_since, now) == now {
            return Ok(());
        }
    }
}

/// Records dropped chunks, and returns the time from which on minutes are complete.
async fn record_dropped_minutes(connection: &mut AsyncPgConnection, edition: Edition) -> anyhow::Result<Option<i64>> {
    let doing = "looking for dropped chunks";
    completeness::update_borders(connection, edition)
        .await
        .explained(doing)?;
    completeness::since(connection, Timeframe::M1.table())
        .await
        .explained(doing)
}
