//! Refreshing buckets, smallest timeframe first, since each is made from the one below.

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::rollups::{self, Scope};

use super::ranges::{LARGER, touched};

/// Brings the buckets that `ranges` touch up to date, and tells `done` about each timeframe.
pub(crate) async fn buckets(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run(connection, edition, ranges, Scope::Changed, done).await
}

/// Computes the buckets that `range` touches again, whether or not their source changed, and tells `done` about each timeframe.
pub(crate) async fn mend(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    range: TimeRange,
    done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run(connection, edition, &[range], Scope::All, done).await
}

async fn run(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    scope: Scope,
    mut done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut border = note_border(connection, edition).await?;
    loop {
        for timeframe in LARGER {
            let begin = Instant::now();
            rollups::refresh(connection, edition, timeframe, &touched(ranges, timeframe), scope)
                .await
                .explained(&format!("refreshing {timeframe} candles"))?;
            done(timeframe, begin.elapsed())?;
        }
        // Minutes that were dropped meanwhile may have been gone before they were read.
        let now = note_border(connection, edition).await?;
        if std::mem::replace(&mut border, now) == now {
            return Ok(());
        }
    }
}

/// Notes what was dropped, and returns from when on minutes are complete.
async fn note_border(connection: &mut AsyncPgConnection, edition: Edition) -> anyhow::Result<Option<i64>> {
    let doing = "looking for dropped chunks";
    completeness::update_borders(connection, edition)
        .await
        .explained(doing)?;
    completeness::since(connection, Timeframe::M1.table())
        .await
        .explained(doing)
}
