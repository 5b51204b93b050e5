//! Classifies the minutes of a symbol by evidence. Pure.
//!
//! Evidence of lost trades counts more than that of a connected feed: rows that were deleted were received before.

use std::collections::HashSet;
use std::fmt;

use storage_core::domain::heartbeat::Coverage;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::coverage::{IdStep, IdSteps};

/// State of a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// The minute has a candle.
    Traded,
    /// There were no trades.
    Quiet,
    /// Trades are missing, or may be.
    Missing,
    /// No feed was to cover the minute.
    NotExpected,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Traded => "traded",
            Self::Quiet => "quiet",
            Self::Missing => "missing",
            Self::NotExpected => "not expected",
        })
    }
}

/// Consecutive minutes with the same state and evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) state: State,
    pub(crate) range: TimeRange,
    pub(crate) evidence: String,
}

impl Span {
    /// Returns the number of minutes.
    pub(crate) fn minutes(&self) -> i64 {
        (self.range.to_us - self.range.from_us) / Timeframe::M1.micros()
    }
}

/// Evidence about a symbol.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// Starts of the minutes with a candle.
    pub(crate) traded: Vec<i64>,
    pub(crate) ids: IdSteps,
    /// Starts of the 5-minute candles that count more trades than their minutes.
    pub(crate) incomplete: Vec<i64>,
    /// Coverage of the feeds that were subscribed to the symbol, in the order of feed and time.
    pub(crate) coverage: Vec<Coverage>,
    /// Time whose entries Redis counts as written and the database lacks.
    pub(crate) behind: Option<TimeRange>,
    /// Start of the first minute that retention has not dropped.
    pub(crate) kept_us: i64,
}

/// Evidence of a database that was restored to an earlier state: warm-syncer writes the entries again when it starts.
pub(crate) const BEHIND: &str = "Redis counts entries as written that the database lacks";

/// Smallest number of steps from which trade IDs are judged.
const MIN_STEPS: i64 = 10;

/// Times of a feed.
struct Feed<'a> {
    name: &'a str,
    /// Times in which the feed was connected and subscribed.
    covered: Vec<TimeRange>,
    /// Times in which it should have been.
    expected: Vec<TimeRange>,
}

/// Returns the spans of `range`, which consists of whole minutes.
pub(crate) fn classify(symbol: &Symbol, range: TimeRange, evidence: &Evidence) -> Vec<Span> {
    let traded: HashSet<i64> = evidence.traded.iter().copied().collect();
    let incomplete: HashSet<i64> = evidence.incomplete.iter().copied().collect();
    let feeds = feeds(symbol, &evidence.coverage);
    let ids = &evidence.ids;
    // IDs that other symbols share, or that no order gives, tell nothing.
    let count_up = ids.steps >= MIN_STEPS && ids.consecutive * 10 >= ids.steps * 9;
    let mut steps = if count_up { ids.noted.as_slice() } else { &[] };
    let mut spans: Vec<Span> = Vec::new();
    for minute in range.pieces(Timeframe::M1.micros()) {
        // Steps are sorted by their start, and those of a symbol do not overlap.
        while let [first, rest @ ..] = steps
            && first.before_us < minute.from_us
        {
            steps = rest;
        }
        let (state, text) = state(minute, evidence, &traded, &incomplete, &feeds, steps);
        match spans.last_mut() {
            Some(last) if last.state == state && last.evidence == text => last.range.to_us = minute.to_us,
            _ => spans.push(Span {
                state,
                range: minute,
                evidence: text,
            }),
        }
    }
    spans
}

fn state(
    minute: TimeRange,
    evidence: &Evidence,
    traded: &HashSet<i64>,
    incomplete: &HashSet<i64>,
    feeds: &[Feed<'_>],
    steps: &[IdStep],
) -> (State, String) {
    let touching = steps
        .iter()
        .take_while(|step| step.after_us < minute.to_us)
        .find(|step| step.before_us >= minute.from_us);
    let missing_ids = touching
        .filter(|step| step.next_id > step.id + 1)
        .map(|step| match step.next_id - step.id {
            2 => format!("trade ID {} is missing", step.id + 1),
            _ => format!("trade IDs {} to {} are missing", step.id + 1, step.next_id - 1),
        });
    let overlaps = |range: &TimeRange| range.from_us < minute.to_us && range.to_us > minute.from_us;
    if traded.contains(&minute.from_us) {
        // Where whole minutes lie between the two trades, these are missing.
        let begins_here = touching.is_some_and(|step| {
            step.after_us >= minute.from_us && step.before_us < minute.to_us + Timeframe::M1.micros()
        });
        return (State::Traded, missing_ids.filter(|_| begins_here).unwrap_or_default());
    }
    if minute.from_us < evidence.kept_us {
        return (State::NotExpected, "retention has dropped minutes".to_owned());
    }
    if let Some(missing) = missing_ids {
        return (State::Missing, missing);
    }
    if incomplete.contains(&Timeframe::M5.bucket_start_us(minute.from_us)) {
        return (
            State::Missing,
            "candles_5m counts trades that candles_1m lacks".to_owned(),
        );
    }
    if evidence.behind.as_ref().is_some_and(overlaps) {
        return (State::Missing, BEHIND.to_owned());
    }
    let covers = |range: &TimeRange| range.from_us <= minute.from_us && range.to_us >= minute.to_us;
    if let Some(feed) = feeds.iter().find(|feed| feed.covered.iter().any(covers)) {
        return (State::Quiet, format!("feed {} was connected", feed.name));
    }
    if touching.is_some_and(|step| step.after_us <= minute.from_us && step.before_us >= minute.to_us) {
        return (State::Quiet, "trade IDs before and after are consecutive".to_owned());
    }
    match feeds.iter().find(|feed| feed.expected.iter().any(overlaps)) {
        Some(feed) => (State::Missing, format!("feed {} was not connected", feed.name)),
        None => (State::NotExpected, "no feed has announced the symbol".to_owned()),
    }
}

fn feeds<'a>(symbol: &Symbol, coverage: &'a [Coverage]) -> Vec<Feed<'a>> {
    let of_feed = |rows: &'a [Coverage]| {
        let (mut covered, mut expected) = (Vec::new(), Vec::new());
        for (row, next) in rows.iter().zip(rows.iter().skip(1).map(Some).chain([None])) {
            if row.symbols.contains(symbol) {
                covered.push(TimeRange {
                    from_us: row.since_us,
                    to_us: row.until_us,
                });
                // Subscribed until the next list says otherwise.
                expected.push(TimeRange {
                    from_us: row.since_us,
                    to_us: next.map_or(i64::MAX, |next| next.since_us),
                });
            }
        }
        Feed {
            name: &rows[0].feed,
            covered: TimeRange::merge(covered, 0),
            expected,
        }
    };
    coverage.chunk_by(|a, b| a.feed == b.feed).map(of_feed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn symbol() -> Symbol {
        "A".parse().unwrap()
    }

    fn minutes(from: i64, to: i64) -> TimeRange {
        TimeRange {
            from_us: from * MINUTE,
            to_us: to * MINUTE,
        }
    }

    fn covered(from: i64, to: i64, symbols: &str) -> Coverage {
        Coverage {
            feed: "f".to_owned(),
            since_us: from * MINUTE,
            until_us: to * MINUTE,
            symbols: symbols.split(' ').map(|symbol| symbol.parse().unwrap()).collect(),
            is_down: false,
        }
    }

    fn ids(noted: &[(i64, i64, i64, i64)]) -> IdSteps {
        let step = |(after, before, id, next_id): &(i64, i64, i64, i64)| IdStep {
            after_us: after * MINUTE + 1,
            before_us: before * MINUTE + 1,
            id: *id,
            next_id: *next_id,
        };
        IdSteps {
            steps: 100,
            consecutive: 98,
            noted: noted.iter().map(step).collect(),
        }
    }

    /// Returns `state from-to` of each span, in minutes.
    fn shown(range: TimeRange, evidence: &Evidence) -> Vec<String> {
        let span = |span: &Span| {
            let [from, to] = [span.range.from_us, span.range.to_us].map(|us| us / MINUTE);
            format!("{} {from}-{to}", span.state)
        };
        classify(&symbol(), range, evidence).iter().map(span).collect()
    }

    #[test]
    fn a_feed_that_was_disconnected_leaves_a_gap_and_a_halt_with_heartbeats_does_not() {
        let evidence = Evidence {
            traded: vec![2 * MINUTE],
            coverage: vec![covered(2, 20, "A B"), covered(30, 40, "A B")],
            ..Evidence::default()
        };
        let expected = [
            "not expected 0-2",
            "traded 2-3",
            "quiet 3-20",
            "missing 20-30",
            "quiet 30-40",
            "missing 40-50",
        ];
        assert_eq!(shown(minutes(0, 50), &evidence), expected);
    }

    #[test]
    fn a_symbol_that_a_feed_no_longer_subscribes_is_not_expected() {
        let evidence = Evidence {
            coverage: vec![covered(0, 10, "A"), covered(12, 20, "B")],
            ..Evidence::default()
        };
        assert_eq!(
            shown(minutes(0, 20), &evidence),
            ["quiet 0-10", "missing 10-12", "not expected 12-20"]
        );
    }

    #[test]
    fn trade_ids_prove_a_gap_and_its_absence() {
        let evidence = Evidence {
            traded: vec![0, 10 * MINUTE, 30 * MINUTE],
            ids: ids(&[(0, 10, 5, 6), (10, 30, 6, 400)]),
            // Rows were deleted while the feed was connected.
            coverage: vec![covered(0, 40, "A")],
            ..Evidence::default()
        };
        let expected = [
            "traded 0-1",
            "quiet 1-10",
            "traded 10-11",
            "missing 11-30",
            "traded 30-31",
        ];
        assert_eq!(shown(minutes(0, 31), &evidence), expected);
        let without_feed = Evidence {
            coverage: Vec::new(),
            ..evidence.clone()
        };
        assert_eq!(shown(minutes(0, 31), &without_feed), expected);
        let shared = Evidence {
            ids: IdSteps {
                consecutive: 20,
                ..evidence.ids.clone()
            },
            ..without_feed
        };
        assert_eq!(
            shown(minutes(0, 9), &shared),
            ["traded 0-1", "not expected 1-9"],
            "IDs of many symbols"
        );
    }

    #[test]
    fn larger_candles_and_positions_prove_a_gap() {
        let evidence = Evidence {
            incomplete: vec![5 * MINUTE],
            behind: Some(minutes(12, 14)),
            coverage: vec![covered(0, 40, "A")],
            ..Evidence::default()
        };
        let expected = [
            "quiet 0-5",
            "missing 5-10",
            "quiet 10-12",
            "missing 12-14",
            "quiet 14-20",
        ];
        assert_eq!(shown(minutes(0, 20), &evidence), expected);
    }

    #[test]
    fn dropped_minutes_are_not_expected() {
        let evidence = Evidence {
            kept_us: 10 * MINUTE,
            incomplete: vec![0],
            coverage: vec![covered(0, 40, "A")],
            ..Evidence::default()
        };
        assert_eq!(shown(minutes(0, 12), &evidence), ["not expected 0-10", "quiet 10-12"]);
    }
}
