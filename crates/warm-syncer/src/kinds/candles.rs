//! Closed candles: each minute holds the newest revision, which never lacks ticks of an older one.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::{Entry, invalid};
use storage_core::domain::lots::{self, DEFAULT_VOLUME_DECIMALS, Lots};
use storage_core::domain::rejection::Rejection;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, duration_us};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::candles::{self, Candidate, CandleRow, Difference};
use storage_core::postgres::queries::tick_versions;
use storage_core::redis::codec;
use storage_core::redis::codec::repairs::Repair;

use super::Kind;
use super::ticks::volume_decimals;
use crate::labels;
use crate::outcome::{Item, Rejected, Written};

/// The closed 1-minute candles of a partition.
pub(crate) struct Candles {
    pub(crate) partition: u16,
    /// Age from which the refresh policies of the rollups no longer see a changed minute, so that it is announced.
    pub(crate) refresh_window: Duration,
}

/// A closed candle of a symbol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClosedCandle {
    symbol: Symbol,
    candle: Candle,
    /// `candle.trades` in the type of the column.
    trades: i32,
}

impl ClosedCandle {
    fn repair(&self) -> Repair {
        Repair {
            symbol: self.symbol.clone(),
            start_us: self.candle.start_us,
            revision: self.candle.revision,
        }
    }

    /// Returns `true` if an older candle of the minute has ticks that this one lacks.
    fn lacks_ticks_of(&self, older: &Self) -> bool {
        older.candle.revision < self.candle.since || older.trades > self.trades
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            symbol: self.symbol.clone(),
            start_us: self.candle.start_us,
            trades: self.trades,
            since: self.candle.since,
            revision: self.candle.revision,
        }
    }

    fn row(&self, volume_lots: i64) -> CandleRow {
        CandleRow {
            start_us: self.candle.start_us,
            symbol: self.symbol.clone(),
            open: self.candle.open,
            high: self.candle.high,
            low: self.candle.low,
            close: self.candle.close,
            volume_lots,
            trades: self.trades,
            revision: self.candle.revision,
        }
    }
}

impl Kind for Candles {
    const LABEL: &'static str = labels::CANDLES;
    type Row = ClosedCandle;

    fn decode(&self, entry: &Entry) -> Result<ClosedCandle, Rejection> {
        let (symbol, candle) = codec::candles::decode_entry(entry)?;
        if Timeframe::M1.bucket_start_us(candle.start_us) != candle.start_us {
            return Err(invalid("time", "is not the start of a minute"));
        }
        if ![candle.open, candle.high, candle.low, candle.close]
            .iter()
            .all(|price| price.is_finite())
        {
            return Err(invalid("close", "or another price is not finite"));
        }
        let trades = i32::try_from(candle.trades).map_err(|_| invalid("trades", "is beyond an integer"))?;
        Ok(ClosedCandle { symbol, candle, trades })
    }

    async fn write(&self, connection: &mut AsyncPgConnection, items: &[Item<ClosedCandle>]) -> QueryResult<Written> {
        let decimals = volume_decimals(connection, items.iter().map(|item| &item.row.symbol)).await?;
        let (newest, mut repairs) = newest_of_each(items);
        let (fitting, rejected) = in_lots(newest, &decimals);
        // The repair computes the minute without the ticks that do not fit; the dead letter keeps the whole candle.
        repairs.extend(rejected.iter().map(|(closed, _)| closed.repair()));
        let mut rows: Vec<CandleRow> = fitting.iter().map(|(closed, lots)| closed.row(*lots)).collect();

        candles::lock_partition(connection, self.partition).await?;
        let mut written = candles::insert_1m(connection, &rows).await?;
        let candidates: Vec<Candidate> = fitting.iter().map(|(closed, _)| closed.candidate()).collect();
        // The repair after a bust may have found or left no row that would refuse this candle.
        let amended = tick_versions::amended_after(connection, &candidates).await?;
        repairs.extend(amended.into_iter().map(|at| fitting[at].0.repair()));
        if written < rows.len() {
            let differing = candles::compare(connection, &candidates).await?;
            let newer = differing
                .iter()
                .filter(|(_, difference)| *difference == Difference::Newer);
            let newer: Vec<CandleRow> = newer.map(|(at, _)| rows[*at].clone()).collect();
            written += candles::upsert_1m(connection, &newer).await?;
            for (at, _) in differing
                .into_iter()
                .rev()
                .filter(|(_, difference)| *difference == Difference::Diverged)
            {
                rows.swap_remove(at);
                repairs.push(fitting[at].0.repair());
            }
        }

        Ok(Written {
            rows: written,
            unchanged: rows.len() - written,
            rejected: rejected.into_iter().map(|(_, rejected)| rejected).collect(),
            repairs,
            // Unchanged rows are announced, too: after a crash between commit and announcement the rows read again are
            // unchanged.
            rollups: older_than(&rows, now_us().saturating_sub(duration_us(self.refresh_window))),
        })
    }
}

/// Selects the newest candle of each minute. If that lacks ticks of an older one, the older one is selected and a
/// repair of the minute is returned.
fn newest_of_each(items: &[Item<ClosedCandle>]) -> (Vec<&Item<ClosedCandle>>, Vec<Repair>) {
    let mut sorted: Vec<&Item<ClosedCandle>> = items.iter().collect();
    sorted.sort_by(|a, b| {
        let key = |item: &Item<ClosedCandle>| (item.row.candle.start_us, item.row.candle.revision, item.row.trades);
        a.row.symbol.cmp(&b.row.symbol).then_with(|| key(a).cmp(&key(b)))
    });
    let mut newest: Vec<&Item<ClosedCandle>> = Vec::with_capacity(sorted.len());
    let mut repairs: Vec<Repair> = Vec::new();
    for item in sorted {
        match newest.last_mut() {
            Some(last)
                if (&last.row.symbol, last.row.candle.start_us) == (&item.row.symbol, item.row.candle.start_us) =>
            {
                if item.row.lacks_ticks_of(&last.row) {
                    repairs.push(item.row.repair());
                } else {
                    *last = item;
                }
            }
            _ => newest.push(item),
        }
    }
    // The last repair of a minute covers the others.
    repairs.reverse();
    repairs.dedup_by(|a, b| (&a.symbol, a.start_us) == (&b.symbol, b.start_us));
    (newest, repairs)
}

type Fitting<'a> = Vec<(&'a ClosedCandle, i64)>;
type Rejections<'a> = Vec<(&'a ClosedCandle, Rejected)>;

/// Converts the volumes to lots, and rejects candles whose volume does not fit.
fn in_lots<'a>(items: Vec<&'a Item<ClosedCandle>>, decimals: &HashMap<Symbol, u8>) -> (Fitting<'a>, Rejections<'a>) {
    let (mut fitting, mut rejected) = (Vec::with_capacity(items.len()), Vec::new());
    for Item { entry, row: closed } in items {
        let (symbol, volume) = (&closed.symbol, closed.candle.volume);
        let decimals = decimals.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
        match Lots::of(volume, decimals) {
            Ok(lots) => fitting.push((closed, lots.count)),
            Err(error) => {
                let reason = lots::rejection(symbol, volume, Decimal::ZERO, error, decimals);
                rejected.push((closed, Rejected { entry: *entry, reason }));
            }
        }
    }
    (fitting, rejected)
}

/// Returns the minutes that ended by `limit_us`.
fn older_than(rows: &[CandleRow], limit_us: i64) -> Vec<TimeRange> {
    rows.iter()
        .map(|row| TimeRange {
            from_us: row.start_us,
            to_us: row.start_us.saturating_add(Timeframe::M1.micros()),
        })
        .filter(|minute| minute.to_us <= limit_us)
        .collect()
}

fn now_us() -> i64 {
    duration_us(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_core::domain::stream_id::{Revision, StreamId};

    const MINUTE_US: i64 = 60_000_000;

    fn revision(ms: u64) -> Revision {
        StreamId::at_ms(ms).try_into().unwrap()
    }

    /// Creates the candle of a minute with `trades` ticks, the first of which is the entry `since` and the last one
    /// `to`.
    fn item(symbol: &str, minute: i64, since: u64, to: u64, trades: i32) -> Item<ClosedCandle> {
        let mut candle = Candle::of_tick(
            Timeframe::M1,
            minute * MINUTE_US,
            1.5,
            Decimal::from_lots(25, 1),
            revision(since),
        );
        candle.revision = revision(to);
        candle.trades = trades.into();
        Item {
            entry: 0,
            row: ClosedCandle {
                symbol: symbol.parse().unwrap(),
                candle,
                trades,
            },
        }
    }

    fn kept(items: &[Item<ClosedCandle>]) -> (Vec<Revision>, Vec<Revision>) {
        let (newest, repairs) = newest_of_each(items);
        (
            newest.into_iter().map(|item| item.row.candle.revision).collect(),
            repairs.into_iter().map(|repair| repair.revision).collect(),
        )
    }

    #[test]
    fn the_newest_revision_of_a_minute_is_kept_in_any_order() {
        let items = [
            item("A", 0, 1, 30, 3),
            item("A", 0, 1, 10, 1),
            item("A", 1, 40, 40, 1),
            item("B", 0, 1, 20, 2),
        ];
        assert_eq!(kept(&items), (vec![revision(30), revision(40), revision(20)], vec![]));
    }

    #[test]
    fn a_repeated_candle_is_written_once() {
        let items = [item("A", 0, 1, 30, 3), item("A", 0, 1, 30, 3)];
        assert_eq!(kept(&items), (vec![revision(30)], vec![]));
    }

    #[test]
    fn a_candle_without_the_earlier_ticks_does_not_replace_the_previous_one() {
        let items = [item("A", 0, 1, 30, 3), item("A", 0, 90, 90, 1), item("A", 0, 90, 95, 2)];
        assert_eq!(kept(&items), (vec![revision(30)], vec![revision(95)]));
    }

    #[test]
    fn the_candle_with_more_trades_is_kept_of_two_with_the_same_revision() {
        let items = [item("A", 0, 1, 30, 3), item("A", 0, 1, 30, 2)];
        let (newest, repairs) = newest_of_each(&items);
        assert_eq!((newest[0].row.trades, repairs), (3, vec![]));
    }

    #[test]
    fn a_candle_with_fewer_trades_does_not_replace_the_previous_one() {
        let items = [item("A", 0, 1, 30, 3), item("A", 0, 1, 40, 2)];
        assert_eq!(kept(&items), (vec![revision(30)], vec![revision(40)]));
    }

    #[test]
    fn a_volume_that_does_not_fit_its_lots_names_the_command() {
        let items = ["FINE", "COARSE", "NEW"].map(|symbol| item(symbol, 0, 1, 1, 1));
        let decimals = HashMap::from([("FINE".parse().unwrap(), 3), ("COARSE".parse().unwrap(), 0)]);
        let (fitting, rejected) = in_lots(items.iter().collect(), &decimals);
        assert_eq!(
            fitting.into_iter().map(|(_, lots)| lots).collect::<Vec<_>>(),
            [2_500, 250_000_000]
        );
        let reason = rejected[0].1.reason.to_string();
        assert!(
            reason.contains("`aggregator-admin symbols set COARSE --volume-decimals 8 --rescale`"),
            "{reason}"
        );
    }

    #[test]
    fn only_minutes_that_ended_by_the_limit_are_announced() {
        let rows: Vec<CandleRow> = (0..3).map(|minute| item("A", minute, 1, 1, 1).row.row(1)).collect();
        assert_eq!(
            older_than(&rows, 2 * MINUTE_US),
            [
                TimeRange {
                    from_us: 0,
                    to_us: MINUTE_US
                },
                TimeRange {
                    from_us: MINUTE_US,
                    to_us: 2 * MINUTE_US
                }
            ]
        );
    }

    #[test]
    fn a_candle_that_does_not_start_a_minute_is_rejected() {
        let kind = Candles {
            partition: 0,
            refresh_window: Duration::ZERO,
        };
        let entry = |closed: &ClosedCandle| {
            let fields = codec::candles::entry_fields(&closed.symbol, &closed.candle);
            Entry::new(StreamId::at_ms(1), fields)
        };
        let mut closed = item("A", 1, 1, 1, 1).row;
        assert_eq!(kind.decode(&entry(&closed)), Ok(closed.clone()));
        closed.candle.start_us += 1_000_000;
        assert!(kind.decode(&entry(&closed)).is_err());
        closed.candle.start_us -= 1_000_000;
        closed.candle.high = f64::NAN;
        assert!(kind.decode(&entry(&closed)).is_err());
    }
}
