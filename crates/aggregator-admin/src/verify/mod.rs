//! Compares the history and the hot view with their sources, and mends them.
//!
//! The workers keep writing meanwhile. What differs is looked at again after they have processed everything that the
//! streams held at the first look (`settle`). Only what differs in the same way then is a finding; `verdict` decides
//! which differences are still to be written or refreshed.

pub(crate) mod background;
mod hot;
mod repair;
mod reread;
mod settle;
mod verdict;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use storage_core::config::stream::StreamConfig;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Server;
use storage_core::postgres::error::Explained;
use storage_core::postgres::pool::PooledConnection;
use storage_core::postgres::queries::candles::{self, CandleRow};
use storage_core::postgres::queries::positions::{self, LostEntries};
use storage_core::postgres::queries::verify::{Borders, Difference, differences, differing_hours, lacking_rows};
use storage_core::postgres::queries::{completeness, dead_letters, tick_versions, ticks};
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::Connection;
use storage_core::redis::lease;
use storage_core::redis::stream::AGGREGATOR_ADMIN;

pub(crate) use self::repair::{correct_revision, repair};
pub(crate) use self::verdict::Class;

use self::settle::settle;
use self::verdict::{Evidence, Refreshes};
use crate::candles::hot as hot_candles;
use crate::config::{AdminConfig, Config};
use crate::minute::ComputedMinute;
use crate::pieces::{self, Pace};
use crate::policies::refresh_intervals;
use crate::rollups::ranges::LARGER;

/// Maximum number of differences of a timeframe that are examined one by one in a piece of the history.
const MAX_DIFFERENCES: i32 = 10_000;

/// A candle that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) timeframe: Timeframe,
    pub(crate) class: Class,
    pub(crate) difference: Difference,
    /// Position before the first missing trade in its stream, for [`Class::TicksInStream`].
    pub(crate) read_from: Option<StreamId>,
}

/// Result of comparing a piece of the history.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Number of candles compared.
    pub(crate) compared: BTreeMap<Timeframe, i64>,
    /// Number of candles that are still to be written or refreshed.
    pub(crate) waiting: BTreeMap<Timeframe, usize>,
    pub(crate) findings: Vec<Finding>,
}

/// Comparison of a history, piece by piece.
pub(crate) struct Verifier<'p> {
    pub(super) connection: PooledConnection<'p>,
    pub(super) redis: Connection,
    server: Server,
    settings: AdminConfig,
    /// Longest wait for the workers.
    patience: Duration,
    borders: Borders,
    losses: Vec<LostEntries>,
    minutes: Pace,
    stream: StreamConfig,
    /// Minutes whose entries were read again, by symbol and start.
    reread: HashSet<(String, DateTime<Utc>)>,
}

impl<'p> Verifier<'p> {
    pub(crate) async fn new(
        config: &Config,
        mut connection: PooledConnection<'p>,
        server: Server,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let borders = Borders::read(&mut connection)
            .await
            .explained("reading the times from which on tables are complete")?;
        let losses = positions::losses(&mut connection)
            .await
            .explained("reading the entries that Redis has lost")?;
        Ok(Self {
            connection,
            redis: Connection::ordinary(&config.redis),
            server,
            settings: config.admin.clone(),
            patience,
            borders,
            losses,
            minutes: Pace::new(Timeframe::H1, 6),
            stream: config.stream.clone(),
            reread: HashSet::new(),
        })
    }

    /// Returns the start of the first candle of `timeframe` that is compared with its source in full.
    pub(crate) fn compared_us(&self, timeframe: Timeframe) -> i64 {
        self.borders.compared_us(timeframe)
    }

    /// Returns the whole days within `range` that ticks and candles of `timeframes` cover, merged.
    pub(crate) async fn days(&mut self, range: TimeRange, timeframes: &[Timeframe]) -> anyhow::Result<Vec<TimeRange>> {
        pieces::days(&mut self.connection, self.server.edition, range, timeframes).await
    }

    /// Compares the candles of `range`, which consists of whole days, optionally of one symbol.
    pub(crate) async fn check(&mut self, symbol: Option<&Symbol>, range: TimeRange) -> anyhow::Result<Checked> {
        let mut checked = Checked::default();
        let first = self.look(symbol, range, Some(&mut checked)).await?;
        if first.is_empty() {
            return Ok(checked);
        }
        // Read before the workers are awaited: a minute that is closed by now was announced before.
        let open = self.open_minutes(&first).await?;
        let partitions = crate::stores::partitions(&mut self.redis).await?;
        let unfinished = settle(&mut self.redis, partitions, self.patience).await?;
        let evidence = Evidence {
            partitions,
            unfinished,
            now_us: storage_core::domain::time::ms_to_us(now_ms(&mut self.redis).await.context("reading the clock")?),
            refreshes: self.refreshes().await?,
        };
        let again: HashSet<(Timeframe, String)> = self
            .look(symbol, range, None)
            .await?
            .iter()
            .map(|(timeframe, difference)| (*timeframe, format!("{difference:?}")))
            .collect();
        for (timeframe, difference) in first {
            if timeframe == Timeframe::M1
                && (verdict::is_of_lost_entry(&difference, partitions, &self.losses)
                    || self.is_of_requeue(&difference).await?)
            {
                continue;
            }
            let is_same = again.contains(&(timeframe, format!("{difference:?}")));
            let is_open = open.contains(&(difference.symbol.clone(), difference.time.timestamp_micros()));
            if !is_same || timeframe == Timeframe::M1 && is_open || evidence.is_waiting(timeframe, &difference) {
                *checked.waiting.entry(timeframe).or_default() += 1;
            } else {
                checked.findings.push(Finding {
                    timeframe,
                    class: Class::of(timeframe, &difference),
                    difference,
                    read_from: None,
                });
            }
        }
        self.find_in_streams(partitions, &mut checked.findings).await?;
        Ok(checked)
    }

    /// Returns the differences of `range`, and counts the candles compared in `checked`.
    async fn look(
        &mut self,
        symbol: Option<&Symbol>,
        range: TimeRange,
        mut checked: Option<&mut Checked>,
    ) -> anyhow::Result<Vec<(Timeframe, Difference)>> {
        let mut found = Vec::new();
        let (before, after) = range.split_at(self.borders.compared_us(Timeframe::M1));
        if let Some(before) = before {
            self.look_before_border(symbol, Timeframe::M1, before, &mut found)
                .await?;
        }
        let mut from_us = after.map_or(range.to_us, |after| after.from_us);
        while from_us < range.to_us {
            let piece = TimeRange {
                from_us,
                to_us: self.minutes.end(from_us).min(range.to_us),
            };
            let began = tokio::time::Instant::now();
            self.look_by_hash(symbol, &[Timeframe::M1], piece, &mut found, checked.as_deref_mut())
                .await?;
            self.minutes.took(began.elapsed());
            from_us = piece.to_us;
        }
        self.look_by_hash(symbol, &LARGER, range, &mut found, checked).await?;
        for timeframe in LARGER {
            self.look_before_border(symbol, timeframe, range, &mut found).await?;
        }
        Ok(found)
    }

    async fn look_by_hash(
        &mut self,
        symbol: Option<&Symbol>,
        timeframes: &[Timeframe],
        range: TimeRange,
        found: &mut Vec<(Timeframe, Difference)>,
        mut checked: Option<&mut Checked>,
    ) -> anyhow::Result<()> {
        let doing = "comparing candles with their source";
        let hours = differing_hours(&mut self.connection, &self.borders, timeframes, symbol, range);
        for (timeframe, hours) in hours.await.explained(doing)? {
            if let Some(checked) = &mut checked {
                *checked.compared.entry(timeframe).or_default() += hours.compared;
            }
            let limit = MAX_DIFFERENCES;
            let differing = differences(
                &mut self.connection,
                &self.borders,
                timeframe,
                &hours.differing,
                range,
                limit,
            );
            for difference in differing.await.explained(doing)? {
                if !difference.is_beyond_bigint || !self.contains_ticks_that_fit(&difference).await? {
                    found.push((timeframe, difference));
                }
            }
        }
        Ok(())
    }

    async fn look_before_border(
        &mut self,
        symbol: Option<&Symbol>,
        timeframe: Timeframe,
        range: TimeRange,
        found: &mut Vec<(Timeframe, Difference)>,
    ) -> anyhow::Result<()> {
        let lacking = lacking_rows(
            &mut self.connection,
            &self.borders,
            timeframe,
            symbol,
            range,
            MAX_DIFFERENCES,
        );
        for difference in lacking
            .await
            .explained("comparing candles with the rest of their source")?
        {
            if !difference.is_beyond_bigint || !self.contains_ticks_that_fit(&difference).await? {
                found.push((timeframe, difference));
            }
        }
        Ok(())
    }

    /// Returns `true` if a minute whose ticks overflow the volume, a bigint, contains exactly the ticks that fit.
    async fn contains_ticks_that_fit(&mut self, difference: &Difference) -> anyhow::Result<bool> {
        let symbol: Symbol = difference.symbol.parse()?;
        let start_us = difference.time.timestamp_micros();
        let doing = "reading a minute";
        let connection = &mut self.connection;
        let candle = candles::minute(connection, &symbol, start_us).await.explained(doing)?;
        let ticks = ticks::of_minute(connection, &symbol, start_us).await.explained(doing)?;
        let since_us = completeness::since(connection, "ticks").await.explained(doing)?;
        let lacks_ticks = since_us.is_some_and(|since_us| start_us < since_us);
        let amendments = tick_versions::of_minute(connection, &symbol, start_us)
            .await
            .explained(doing)?;
        let computed = ComputedMinute::of(
            candle.as_ref(),
            &ticks,
            amendments,
            DEFAULT_VOLUME_DECIMALS,
            !lacks_ticks,
        );
        Ok(computed.is_some_and(|computed| {
            let row = computed.row(&symbol);
            (lacks_ticks || !computed.is_joined)
                && candle.is_some_and(|candle| {
                    row == CandleRow {
                        revision: row.revision,
                        ..candle
                    }
                })
        }))
    }

    /// Returns `true` if only the revision of a minute is too high, because hot-writer rejected a trade that overflowed
    /// the minute and counted the entry that requeued it. The history has the trade from its first entry.
    async fn is_of_requeue(&mut self, difference: &Difference) -> anyhow::Result<bool> {
        let revision = difference.found_revision.and_then(|found| found.try_into().ok());
        match (difference.symbol.parse(), revision) {
            (Ok(symbol), Some(revision)) if difference.is_of_revision() => self.is_requeue(&symbol, revision).await,
            _ => Ok(false),
        }
    }

    async fn is_requeue(&mut self, symbol: &Symbol, revision: Revision) -> anyhow::Result<bool> {
        dead_letters::is_requeue(&mut self.connection, symbol, revision.stream_id())
            .await
            .explained("reading the requeued dead letters")
    }

    /// Returns the minutes of `found` that Redis holds open.
    async fn open_minutes(&mut self, found: &[(Timeframe, Difference)]) -> anyhow::Result<HashSet<(String, i64)>> {
        let mut open = HashSet::new();
        for (_, difference) in found.iter().filter(|(timeframe, _)| *timeframe == Timeframe::M1) {
            let Ok(symbol) = difference.symbol.parse::<Symbol>() else {
                continue;
            };
            let start_us = difference.time.timestamp_micros();
            let held = hot_candles::candle(&mut self.redis, Timeframe::M1, &symbol, start_us)
                .await
                .context("reading hot candles from Redis")?;
            if held.is_some_and(|(_, state)| !state.is_final) {
                open.insert((difference.symbol.clone(), start_us));
            }
        }
        Ok(open)
    }

    /// Returns the refreshes that run on their own.
    async fn refreshes(&mut self) -> anyhow::Result<Option<Refreshes>> {
        let holders = lease::holders(&mut self.redis, AGGREGATOR_ADMIN, 1)
            .await
            .context("reading the lease of aggregator-admin")?;
        let is_running = self.server.has_scheduler || holders.iter().any(Option::is_some);
        if !is_running {
            return Ok(None);
        }
        Ok(Some(Refreshes {
            intervals: refresh_intervals(&mut self.connection, &self.server, &self.settings).await?,
            window: self.settings.refresh_window,
        }))
    }
}
