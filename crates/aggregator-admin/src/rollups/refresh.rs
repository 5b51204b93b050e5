//! Refreshing buckets, smallest timeframe first, since each is made from the one below.

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::rollups::{self, Purpose};

use super::ranges::{LARGER, touched};
use crate::stores::Explained;

/// Brings the buckets that `ranges` touch up to date, and tells `done` about each timeframe.
pub(crate) async fn buckets(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run(connection, edition, ranges, Purpose::Update, done).await
}

/// Computes the buckets that `range` touches again, whether or not their source changed, and tells `done` about each timeframe.
pub(crate) async fn mend(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    range: TimeRange,
    done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run(connection, edition, &[range], Purpose::Mend, done).await
}

async fn run(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    purpose: Purpose,
    mut done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    completeness::notice(connection, edition)
        .await
        .explained("looking for dropped chunks")?;
    for timeframe in LARGER {
        let begin = Instant::now();
        for range in touched(ranges, timeframe) {
            rollups::refresh(connection, edition, timeframe, range, purpose)
                .await
                .explained(&format!("refreshing {timeframe} candles"))?;
        }
        done(timeframe, begin.elapsed())?;
    }
    Ok(())
}
