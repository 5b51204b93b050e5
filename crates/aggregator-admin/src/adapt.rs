//! Adapts the lots of symbols to their quantities: a dead letter of a quantity that is too fine, or of a minute that is
//! too large, for the lots of its symbol leads to other lots, if these hold all stored quantities exactly. Then the
//! dead letter is requeued.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::lots::{DEFAULT_VOLUME_DECIMALS, Misfit, fitting_decimals};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::dead_letters::{self, DeadLetter};
use storage_core::postgres::queries::symbols::{self, SetDecimalsError};
use storage_core::postgres::queries::ticks;
use storage_core::redis::codec::rollups;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::lease::Membership;
use storage_core::redis::stream::{AGGREGATOR_ADMIN, Stream};
use tokio::time::sleep;

use crate::commands::symbols::copy_to_redis;
use crate::metrics::{LETTERS_REQUEUED, SYMBOLS_RESCALED};
use crate::requeue::{self, Judge, TextFields, name, tick_of};
use crate::worker::Worker;

/// Time after which another replica replaces one that died.
const LEASE_TTL: Duration = Duration::from_secs(30);
/// Number of the lease of this task; that of the policies is 0.
const LEASE: u16 = 1;
/// Interval at which new dead letters are looked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of dead letters in one step.
const BATCH: i64 = 1_000;
/// Time for which the row of a dead letter may be invisible after its `first_seen`, until its transaction commits.
const COMMIT_TIME: TimeDelta = TimeDelta::minutes(1);
/// Time for which a symbol is left alone after its stored rows did not allow other lots.
const RETRY_AFTER: Duration = Duration::from_secs(600);

/// Adapts lots while this replica holds the lease, until the shutdown or a failure.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    if !worker.config.admin.adapt_decimals {
        worker.readiness.ok("lots");
        worker.token.cancelled().await;
        return Ok(());
    }
    let membership = Membership::new(AGGREGATOR_ADMIN, worker.instance(), LEASE_TTL);
    let mut redis = worker.redis();
    let mut letters = Letters::default();
    while !worker.token.is_cancelled() {
        let leads = membership.acquire(&mut redis, LEASE).await;
        if leads.context("acquiring the lease of lots")? {
            complete_changes(&worker, &mut redis).await?;
            adapt(&worker, &mut redis, &mut letters).await?;
        }
        worker.readiness.ok("lots");
        let _ = worker.token.run_until_cancelled(sleep(INTERVAL)).await;
    }
    let released = membership.release(&mut redis, LEASE).await;
    released.context("releasing the lease of lots")
}

/// Announces the larger timeframes of changes whose refresh was not completed, as after a crash.
async fn complete_changes(worker: &Worker, redis: &mut Connection) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    let incomplete = symbols::incomplete_changes(&mut connection).await;
    for change in incomplete.explained("reading changes of lots")? {
        copy_to_redis(&mut connection, redis, &change.symbol).await?;
        if let Some(range) = change.range() {
            functions::announce(Stream::Rollups, &rollups::entry_fields(range))
                .query_async::<()>(redis)
                .await
                .context("announcing rescaled candles")?;
        }
        let completed = symbols::complete_changes(&mut connection, &change.symbol).await;
        completed.explained("completing a change of lots")?;
    }
    Ok(())
}

/// Dead letters that were looked at.
#[derive(Default)]
struct Letters {
    /// Time of the newest one.
    newest: Option<DateTime<Utc>>,
    /// Names of the latest ones.
    seen: HashSet<String>,
    /// Symbols whose stored rows do not allow other lots, with the time of the last attempt.
    refused: HashMap<Symbol, Instant>,
}

impl Letters {
    /// Reads the dead letters that were not looked at yet, and returns their symbols and those to try again.
    async fn new_symbols(&mut self, connection: &mut AsyncPgConnection) -> anyhow::Result<HashSet<Symbol>> {
        let after = self.newest.map(|newest| newest - COMMIT_TIME);
        let found = dead_letters::of_lots(connection, after, None, BATCH + i64::try_from(self.seen.len())?).await;
        let found = found.explained("reading dead letters")?;
        let names: HashSet<String> = found.iter().map(name).collect();
        let new = found.iter().filter(|letter| !self.seen.contains(&name(letter)));
        let mut symbols: HashSet<Symbol> = new.filter_map(symbol_of).collect();
        self.newest = found.last().map(|letter| letter.first_seen).max(self.newest);
        self.seen = names;
        let over = self.refused.extract_if(|_, since| since.elapsed() >= RETRY_AFTER);
        symbols.extend(over.map(|(symbol, _)| symbol));
        Ok(symbols)
    }
}

fn symbol_of(letter: &DeadLetter) -> Option<Symbol> {
    letter.fields.get("symbol")?.as_str()?.parse().ok()
}

async fn adapt(worker: &Worker, redis: &mut Connection, letters: &mut Letters) -> anyhow::Result<()> {
    let mut connection = worker.pool.get().await?;
    for symbol in letters.new_symbols(&mut connection).await? {
        let waiting = dead_letters::of_lots(&mut connection, None, Some(symbol.as_str()), BATCH).await;
        let mut adaptation = Adaptation {
            judge: Judge {
                config: &worker.config.stream,
                partitions: worker.config.stream.partitions,
            },
            connection: &mut connection,
            redis,
            symbol: &symbol,
            may_rescale: !letters.refused.contains_key(&symbol),
        };
        let waiting = waiting.explained("reading dead letters")?;
        if !adaptation.run(&waiting).await? {
            letters.refused.entry(symbol).or_insert_with(Instant::now);
        }
    }
    Ok(())
}

/// Adaptation of the lots of one symbol to its dead letters.
struct Adaptation<'a> {
    judge: Judge<'a>,
    connection: &'a mut AsyncPgConnection,
    redis: &'a mut Connection,
    symbol: &'a Symbol,
    /// `false` if stored rows have just been found not to allow other lots.
    may_rescale: bool,
}

impl Adaptation<'_> {
    /// Changes the lots if that makes dead letters fit, and requeues those that do. Returns `false` if stored rows do
    /// not allow other lots.
    async fn run(&mut self, letters: &[DeadLetter]) -> anyhow::Result<bool> {
        let decimals = symbols::decimals(self.connection, &[self.symbol]).await;
        let decimals = decimals.explained("reading a symbol's decimals")?;
        let decimals = decimals.get(self.symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
        let mut misfits = Vec::new();
        for letter in letters {
            let Ok(fields) = requeue::fields(letter) else { continue };
            let misfit = self.misfit(&fields, decimals).await?;
            misfits.extend(misfit.filter(|misfit| !misfit.fits(decimals, 1)));
        }
        // A quantity that fits no lots at all does not keep the others from being counted.
        misfits.retain(|misfit| fitting_decimals(&[*misfit], 0).is_some());
        let is_adapted = misfits.is_empty() || (self.may_rescale && self.rescale(decimals, &misfits).await?);
        for letter in letters {
            self.requeue(letter).await?;
        }
        Ok(is_adapted)
    }

    /// Returns the quantity of an entry and the volume of its minute in the history.
    async fn misfit(&mut self, fields: &TextFields, decimals: u8) -> anyhow::Result<Option<Misfit>> {
        if let Some(tick) = tick_of(fields) {
            let start_us = Timeframe::M1.bucket_start_us(tick.ts_us);
            let lots = ticks::lots_of_minute(self.connection, self.symbol, start_us).await;
            let lots = lots.explained("reading the volume of a minute")?;
            return Ok(Some(Misfit {
                quantity: tick.qty,
                held: Decimal::from_lots(lots, decimals),
            }));
        }
        let volume = fields.iter().find(|(name, _)| name == "volume");
        Ok(volume
            .and_then(|(_, volume)| volume.parse().ok())
            .map(|quantity| Misfit {
                quantity,
                held: Decimal::ZERO,
            }))
    }

    /// Sets decimals that fit all of `misfits`, or as many as possible. Returns `false` if stored rows do not allow it.
    async fn rescale(&mut self, from: u8, misfits: &[Misfit]) -> anyhow::Result<bool> {
        let mut least = 0;
        loop {
            let fitting = fitting_decimals(misfits, least).or_else(|| fitting_decimals(&misfits[..1], least));
            let Some(to) = fitting.filter(|to| *to != from) else {
                return Ok(false);
            };
            let reason = format!("qty {} did not fit lots of 10^-{from}", misfits[0].quantity);
            match symbols::set_decimals(self.connection, self.symbol, to, true, &reason).await {
                Ok(done) => {
                    copy_to_redis(self.connection, self.redis, self.symbol).await?;
                    SYMBOLS_RESCALED.increment(1);
                    tracing::warn!(
                        symbol = %self.symbol, from, to, candles = done.candles, ticks = done.ticks,
                        "changed the lots of a symbol: {reason}"
                    );
                    return Ok(true);
                }
                Err(SetDecimalsError::Database(error)) => {
                    return Err(error).explained("changing the lots of a symbol");
                }
                Err(refused) => {
                    tracing::warn!(symbol = %self.symbol, to, "the lots of a symbol can't be adapted: {refused}");
                    match refused {
                        SetDecimalsError::Inexact { least: found, .. } if found > i64::from(least) => {
                            least = u8::try_from(found)?;
                        }
                        _ => return Ok(false),
                    }
                }
            }
        }
    }

    /// Requeues a dead letter unless it would be rejected again.
    async fn requeue(&mut self, letter: &DeadLetter) -> anyhow::Result<()> {
        let Ok(fields) = requeue::fields(letter) else {
            return Ok(());
        };
        let stream = requeue::destination(letter, &fields, self.judge.partitions)?;
        let verdict = self.judge.verdict(self.connection, self.redis, stream, &fields).await?;
        if let Err(reason) = verdict {
            tracing::debug!(letter = name(letter), %reason, "a dead letter stays");
            return Ok(());
        }
        match requeue::requeue(self.connection, self.redis, letter, stream, &fields).await {
            Ok(new_id) => {
                LETTERS_REQUEUED.increment(1);
                tracing::info!(letter = name(letter), new_id, "requeued a dead letter");
            }
            Err(error) => tracing::warn!(letter = name(letter), "a dead letter was not requeued: {error:#}"),
        }
        Ok(())
    }
}
