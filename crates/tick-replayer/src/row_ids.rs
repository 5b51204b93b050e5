//! Gives the ticks of a file that have no trade ID one that stays the same whenever the file is replayed.
//!
//! The ID consists of a hash of the row and of the number of equal rows before it in the file. So equal rows all count,
//! and a file that is replayed again, after its end or a bad line was mended, counts each row once.

use std::collections::{HashMap, VecDeque};

use storage_core::domain::tick::Tick;
use storage_core::domain::timeframe::Timeframe;

/// Number of days whose rows are remembered. The rows of a day are rarely far apart in a file.
const DAYS: usize = 3;

/// Rows of a file without trade IDs.
#[derive(Default)]
pub(crate) struct RowIds {
    /// Numbers of equal rows by their hash, for the last days in which a row was.
    days: VecDeque<(i64, HashMap<u64, u32>)>,
}

impl RowIds {
    /// Returns the tick with a trade ID.
    pub(crate) fn identify(&mut self, tick: Tick) -> Tick {
        if tick.trade_id.is_some() {
            return tick;
        }
        let row = hash(&tick);
        let equal = self
            .of_day(Timeframe::D1.bucket_start_us(tick.ts_us))
            .entry(row)
            .or_default();
        let trade_id = Some(format!("row-{row:016x}-{equal}").into());
        *equal += 1;
        Tick { trade_id, ..tick }
    }

    fn of_day(&mut self, day_us: i64) -> &mut HashMap<u64, u32> {
        let at = self.days.iter().position(|(other_us, _)| *other_us == day_us);
        let day = at.and_then(|at| self.days.remove(at));
        self.days.truncate(DAYS - 1);
        self.days.push_front(day.unwrap_or((day_us, HashMap::new())));
        &mut self.days[0].1
    }
}

/// Returns a hash that is the same in every version of this program (FNV-1a).
fn hash(tick: &Tick) -> u64 {
    let side = tick.side.map(|side| side.as_str()).unwrap_or_default();
    let row = format!("{} {} {} {} {side}", tick.symbol, tick.ts_us, tick.price, tick.qty);
    row.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage_core::domain::decimal::Decimal;

    use super::*;

    fn tick(ts_us: i64, price: u32) -> Tick {
        Tick {
            symbol: "A".parse().unwrap(),
            ts_us,
            price: price.into(),
            qty: Decimal::from_lots(1, 0),
            trade_id: None,
            side: None,
        }
    }

    fn ids(rows: &[(i64, u32)]) -> Vec<String> {
        let mut ids = RowIds::default();
        let identified = rows.iter().map(|(ts_us, price)| ids.identify(tick(*ts_us, *price)));
        identified.map(|tick| tick.trade_id.unwrap().to_string()).collect()
    }

    #[test]
    fn an_id_never_changes_between_versions_and_that_of_an_exchange_is_kept() {
        assert_eq!(ids(&[(1_700_000_000_123_456, 42)]), ["row-0dc2fb42e94e0e80-0"]);
        let known = Tick {
            trade_id: Some("7".into()),
            ..tick(1, 1)
        };
        assert_eq!(RowIds::default().identify(known.clone()), known);
    }

    proptest! {
        #[test]
        fn all_rows_have_different_ids_and_the_same_again_in_a_longer_file(
            rows in prop::collection::vec((0i64..5, 1u32..4), 1..60),
            cut in 0usize..60,
        ) {
            let all = ids(&rows);
            let distinct: std::collections::HashSet<_> = all.iter().collect();
            prop_assert_eq!(distinct.len(), all.len());
            let cut = cut.min(rows.len());
            prop_assert_eq!(&ids(&rows[..cut])[..], &all[..cut]);
        }
    }
}
