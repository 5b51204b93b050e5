//! Ticks that the history lacks and a stream still holds: warm-syncer reads their entries again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::tick_event::TickEvent;
use storage_core::domain::tick_rules::TickRules;
use storage_core::domain::time::duration_us;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::symbols;
use storage_core::postgres::queries::ticks::{self, TickRow};
use storage_core::postgres::queries::trades::{self, Write, Written};
use storage_core::redis::clock::local_ms;
use storage_core::redis::groups;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Pages, Stream, WARM_SYNCER};

use super::{Class, Finding, Verifier};

/// A minute, by symbol and start in µs.
type Minute = (Symbol, i64);

impl Verifier<'_> {
    /// Changes the class of the minutes whose missing trades a stream still holds, except those whose entries were read
    /// again before.
    pub(super) async fn find_in_streams(&mut self, partitions: u16, findings: &mut [Finding]) -> anyhow::Result<()> {
        let mut by_partition: BTreeMap<u16, HashMap<Minute, &mut Finding>> = BTreeMap::new();
        for finding in findings
            .iter_mut()
            .filter(|finding| finding.class == Class::TicksMissing)
        {
            let time = finding.difference.time;
            if self.reread.contains(&(finding.difference.symbol.clone(), time)) {
                continue;
            }
            if let Ok(symbol) = finding.difference.symbol.parse::<Symbol>() {
                let of_partition = by_partition.entry(partition_of(&symbol, partitions)).or_default();
                of_partition.insert((symbol, time.timestamp_micros()), finding);
            }
        }
        for (partition, minutes) in by_partition {
            self.find_in_stream(partition, partitions, minutes).await?;
        }
        Ok(())
    }

    async fn find_in_stream(
        &mut self,
        partition: u16,
        partitions: u16,
        mut minutes: HashMap<Minute, &mut Finding>,
    ) -> anyhow::Result<()> {
        let rules = TickRules {
            partition,
            partitions,
            max_future: self.stream.max_future,
            before_1973: self.stream.before_1973,
        };
        // Earlier entries would have come from the future, and the candle counts no later ones.
        let first_us = minutes.keys().map(|(_, start_us)| *start_us).min().unwrap_or_default();
        let from_ms = first_us.saturating_sub(duration_us(rules.max_future)).max(0) / 1_000;
        let revisions = minutes.values().filter_map(|finding| finding.difference.found_revision);
        let last: Revision = revisions.max().unwrap_or_default().try_into().unwrap_or_default();
        let from = StreamId::at_ms(u64::try_from(from_ms)?);
        let mut pages = Pages::new(Stream::Ticks(partition), from, last.stream_id());
        let mut known: HashMap<Minute, HashSet<Revision>> = HashMap::new();
        while !minutes.is_empty()
            && let Some(entries) = pages.next(&mut self.redis).await.context("reading a stream of ticks")?
        {
            for entry in &entries {
                let Ok(TickEvent::Trade(trade)) = rules.decode(entry, local_ms()) else {
                    continue;
                };
                let start_us = Timeframe::M1.bucket_start_us(trade.tick.ts_us);
                let minute = (trade.tick.symbol.clone(), start_us);
                if !minutes.contains_key(&minute) {
                    continue;
                }
                let written = match known.entry(minute.clone()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let rows = ticks::of_minute(&mut self.connection, &minute.0, start_us).await;
                        let rows = rows.explained("reading the ticks of a minute")?;
                        new.insert(rows.iter().map(|row| row.revision).collect())
                    }
                };
                if !written.contains(&trade.revision) && self.is_missing(&trade).await? {
                    known.remove(&minute);
                    if let Some(finding) = minutes.remove(&minute) {
                        finding.class = Class::TicksInStream;
                        finding.read_from = Some(trade.revision.before().stream_id());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns `true` if writing the entry of `trade` again adds a row.
    async fn is_missing(&mut self, trade: &AcceptedTick) -> anyhow::Result<bool> {
        let doing = "looking up a trade";
        let symbol = &trade.tick.symbol;
        let decimals = symbols::decimals(&mut self.connection, &[symbol])
            .await
            .explained(doing)?;
        let decimals = decimals.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
        let Ok(row) = trade
            .tick
            .lots(decimals)
            .and_then(|lots| TickRow::new(trade, lots.count))
        else {
            return Ok(false);
        };
        let judged = trades::judge(&mut self.connection, &Write::Trade(row), decimals).await;
        Ok(matches!(judged.explained(doing)?, Written::New))
    }

    /// Moves warm-syncer back to the first missing trade of each stream among `findings`. Returns the new positions.
    pub(super) async fn read_again(
        &mut self,
        partitions: u16,
        findings: &[Finding],
    ) -> anyhow::Result<Vec<(Stream, StreamId)>> {
        let mut wanted: BTreeMap<Stream, StreamId> = BTreeMap::new();
        for Finding {
            difference, read_from, ..
        } in findings
        {
            if let (Ok(symbol), Some(read_from)) = (difference.symbol.parse::<Symbol>(), *read_from) {
                let stream = Stream::Ticks(partition_of(&symbol, partitions));
                let first = wanted.entry(stream).or_insert(read_from);
                *first = read_from.min(*first);
                self.reread.insert((difference.symbol.clone(), difference.time));
            }
        }
        let mut moved = Vec::new();
        for (stream, to) in wanted {
            let doing = || format!("moving the position of {WARM_SYNCER} on {}", stream.key());
            let position = position_of(&mut self.redis, stream, WARM_SYNCER)
                .await
                .with_context(doing)?;
            if position.is_some_and(|position| position.delivered > to) {
                groups::rewind(&mut self.redis, stream, WARM_SYNCER, to)
                    .await
                    .with_context(doing)?;
                moved.push((stream, to));
            }
        }
        Ok(moved)
    }
}
