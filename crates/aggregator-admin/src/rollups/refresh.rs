//! Refreshing buckets, smallest timeframe first, since each is made from the one below.

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::rollups;
use storage_core::postgres::queries::verify::chunk_ranges;

use super::ranges::{LARGER, touched, within};
use crate::stores::Explained;

/// Refreshes the buckets that `ranges` touch, and tells `done` about each timeframe.
///
/// Only where there are minutes: a refresh of days whose minutes were dropped by retention would delete the larger candles
/// that were made from them.
pub(crate) async fn buckets(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    ranges: &[TimeRange],
    mut done: impl FnMut(Timeframe, Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let chunks = chunk_ranges(connection, Timeframe::M1.table())
        .await
        .explained("reading the chunks")?;
    let ranges = within(ranges, &chunks);
    for timeframe in LARGER {
        let begin = Instant::now();
        for range in touched(&ranges, timeframe) {
            rollups::refresh(connection, edition, timeframe, range)
                .await
                .explained(&format!("refreshing {timeframe} candles"))?;
        }
        done(timeframe, begin.elapsed())?;
    }
    Ok(())
}
