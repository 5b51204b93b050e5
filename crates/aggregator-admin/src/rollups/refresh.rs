//! Refreshing buckets, smallest timeframe first, since each is made from the one below.

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::rollups::{self, ALWAYS};

use super::ranges::{LARGER, touched};
use crate::stores::Explained;

/// Refreshes the buckets that `ranges` touch, and tells `done` about each timeframe.
pub(crate) async fn buckets(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    mut done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for timeframe in LARGER {
        let begin = Instant::now();
        let touched = if ranges == [ALWAYS] {
            vec![ALWAYS]
        } else {
            touched(ranges, timeframe)
        };
        for range in touched {
            rollups::refresh(connection, edition, timeframe, range)
                .await
                .explained(&format!("refreshing {timeframe} candles"))?;
        }
        done(timeframe, begin.elapsed())?;
    }
    Ok(())
}
