//! Compares the hot view with the ticks of the history, and mends it.
//!
//! A hash names the last entry that it counts, so its candle can be computed from the ticks up to that entry once
//! warm-syncer has written them.

use std::collections::HashMap;

use anyhow::Context;
use storage_core::domain::candle::Candle;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::time::ms_to_us;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::verify::hot as history;
use storage_core::postgres::queries::{completeness, symbols, ticks};
use storage_core::redis::clock::now_ms;
use storage_core::redis::codec;
use storage_core::redis::functions::{Put, PutResult};
use storage_core::redis::hot;
use storage_core::redis::keys::{self, Key};

use super::Verifier;
use super::settle::settle;
use crate::candles::hot::series;
use crate::latest;

/// Time after its last tick in which a candle is certain to be in Redis: less than its shortest TTL.
const HELD_US: i64 = 30 * Timeframe::M1.micros();
/// Time after its end from which a bucket counts as closed.
const CLOSED_US: i64 = Timeframe::M1.micros();
/// TTL of a mended hash beyond the length of its timeframe, in ms.
const TTL_MS: i64 = 3_600_000;

/// A hash of the hot view that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HotFinding {
    pub(crate) key: Key,
    pub(crate) found: String,
    pub(crate) expected: String,
    put: Option<Right>,
}

/// The right content of a hash.
#[derive(Clone, Debug, PartialEq)]
struct Right {
    /// Revision of the hash as it is; `None` if it does not exist.
    stored: Option<Revision>,
    content: Content,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Candle {
        timeframe: Timeframe,
        symbol: Symbol,
        candle: Candle,
        is_final: bool,
    },
    Tick(AcceptedTick),
}

/// Result of comparing the hot view.
#[derive(Debug, Default)]
pub(crate) struct HotChecked {
    pub(crate) compared: usize,
    pub(crate) waiting: usize,
    pub(crate) findings: Vec<HotFinding>,
}

impl Verifier<'_> {
    /// Compares the hashes of all symbols, or of one.
    pub(crate) async fn check_hot(&mut self, symbol: Option<&Symbol>) -> anyhow::Result<HotChecked> {
        let known = symbols::list(&mut self.connection)
            .await
            .explained("reading the symbols")?;
        let names = known.iter().filter_map(|known| known.symbol.parse::<Symbol>().ok());
        let names: Vec<Symbol> = names
            .filter(|name| symbol.is_none_or(|symbol| symbol == name))
            .collect();
        let mut checked = HotChecked::default();
        let mut again = Vec::new();
        for name in &names {
            let (compared, findings) = self.compare_hot(name).await?;
            checked.compared += compared;
            if !findings.is_empty() {
                again.push((name, findings));
            }
        }
        if again.is_empty() {
            return Ok(checked);
        }
        let partitions = crate::stores::partitions(&mut self.redis).await?;
        let unfinished = settle(&mut self.redis, partitions, self.patience).await?;
        for (name, first) in again {
            let partition = storage_core::domain::partition::partition_of(name, partitions);
            let (_, second) = self.compare_hot(name).await?;
            for finding in first {
                match second.contains(&finding) && !unfinished.partitions.contains(&partition) {
                    true => checked.findings.push(finding),
                    false => checked.waiting += 1,
                }
            }
        }
        Ok(checked)
    }

    /// Returns the number of hashes of `symbol`, and those that differ from the history at present.
    async fn compare_hot(&mut self, symbol: &Symbol) -> anyhow::Result<(usize, Vec<HotFinding>)> {
        let decimals = symbols::decimals(&mut self.connection, &[symbol])
            .await
            .explained("reading the decimals of a symbol")?;
        let decimals = decimals.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
        let doing = "reading the hot view";
        let latest_key = keys::tick_latest(symbol);
        let hash = hot::hash(&mut self.redis, &latest_key).await.context(doing)?;
        let latest = ticks::latest(&mut self.connection, symbol)
            .await
            .explained("reading the latest tick")?;
        let latest = latest.map(|row| row.accepted(decimals));
        let (mut compared, mut findings) = (0, Vec::new());
        let is_amended = match &latest {
            Some(latest) => history::is_amended_since(&mut self.connection, symbol, latest.tick.ts_us)
                .await
                .explained("reading the amended trades")?,
            None => false,
        };
        if !hash.is_empty() {
            compared += 1;
            let revision = hash.get("revision").and_then(|revision| revision.parse().ok());
            let is_right = match (&latest, revision) {
                // After a correction or bust the hash has its revision, which may be of another trade.
                (Some(latest), Some(revision)) => {
                    latest::is_same(&hash, &latest.tick)
                        && (is_amended || self.is_right(symbol, revision, latest.revision).await?)
                }
                _ => false,
            };
            if !is_right {
                findings.push(different_tick(latest_key, &hash, latest.as_ref()));
            }
        }
        let complete_us = completeness::first_bucket(&mut self.connection, "ticks", Timeframe::M1)
            .await
            .explained("reading the time from which on ticks are complete")?;
        let now_us = ms_to_us(now_ms(&mut self.redis).await.context(doing)?);
        for timeframe in Timeframe::ALL {
            let states = series(&mut self.redis, timeframe, symbol).await.context(doing)?;
            let newest_us = states.last().map(|state| state.candle.start_us);
            for state in states {
                compared += 1;
                let start_us = state.candle.start_us;
                if start_us < complete_us {
                    continue;
                }
                let expected = self
                    .expected(symbol, timeframe, start_us, state.candle.revision, decimals)
                    .await?;
                if let Some(expected) = &expected
                    && is_same(expected, &state.candle)
                    && self.is_right(symbol, state.candle.revision, expected.revision).await?
                {
                    continue;
                }
                let key = match Some(start_us) == newest_us {
                    true => keys::candle_current(timeframe, symbol),
                    false => keys::candle_recent(timeframe, symbol, start_us),
                };
                let content = |candle| Content::Candle {
                    timeframe,
                    symbol: symbol.clone(),
                    candle,
                    is_final: state.is_final,
                };
                findings.push(HotFinding {
                    key,
                    found: shown(&state.candle),
                    expected: expected.as_ref().map_or("no candle".to_owned(), shown),
                    put: expected.map(|candle| Right {
                        stored: Some(state.candle.revision),
                        content: content(candle),
                    }),
                });
            }
            if let (None, Some(latest)) = (newest_us, &latest) {
                findings.extend(self.missing(symbol, timeframe, latest, decimals, now_us).await?);
            }
        }
        Ok((compared, findings))
    }

    /// Returns `true` if `found` is the revision of a hash with the right values. A trade that hot-writer rejected and
    /// counted when it was requeued has its first entry in the history.
    async fn is_right(&mut self, symbol: &Symbol, found: Revision, expected: Revision) -> anyhow::Result<bool> {
        Ok(found == expected || found > expected && self.is_requeue(symbol, found).await?)
    }

    async fn expected(
        &mut self,
        symbol: &Symbol,
        timeframe: Timeframe,
        start_us: i64,
        until: Revision,
        decimals: u8,
    ) -> anyhow::Result<Option<Candle>> {
        history::candle(&mut self.connection, symbol, timeframe, start_us, until, decimals)
            .await
            .explained("computing a candle from its ticks")
    }

    /// Returns the finding for a candle that Redis must hold and does not.
    async fn missing(
        &mut self,
        symbol: &Symbol,
        timeframe: Timeframe,
        latest: &AcceptedTick,
        decimals: u8,
        now_us: i64,
    ) -> anyhow::Result<Option<HotFinding>> {
        let accepted_us = latest.revision.stream_id().accepted_us();
        let partitions = crate::stores::partitions(&mut self.redis).await?;
        let partition = storage_core::domain::partition::partition_of(symbol, partitions);
        let since_ms = hot::known_complete_since(&mut self.redis, partition)
            .await
            .context("reading the time since which Redis holds every candle")?;
        // A candle of a Redis that was emptied appears at the next tick of its symbol.
        if now_us - accepted_us > HELD_US || since_ms.is_none_or(|since_ms| ms_to_us(since_ms) > accepted_us) {
            return Ok(None);
        }
        let start_us = timeframe.bucket_start_us(latest.tick.ts_us);
        let newest = Revision::try_from(i64::MAX).unwrap_or_default();
        let Some(candle) = self.expected(symbol, timeframe, start_us, newest, decimals).await? else {
            return Ok(None);
        };
        Ok(Some(HotFinding {
            key: keys::candle_current(timeframe, symbol),
            found: "no candle".to_owned(),
            expected: shown(&candle),
            put: Some(Right {
                stored: None,
                content: Content::Candle {
                    timeframe,
                    symbol: symbol.clone(),
                    is_final: start_us + timeframe.micros() + CLOSED_US < now_us,
                    candle,
                },
            }),
        }))
    }

    /// Writes the right content of `findings`, unless their hashes have changed since.
    pub(crate) async fn mend_hot(&mut self, findings: &[HotFinding]) -> anyhow::Result<()> {
        let doing = "writing the hot view";
        for HotFinding { key, put, .. } in findings {
            let Some(Right { stored, content }) = put else {
                hot::remove(key).exec_async(&mut self.redis).await.context(doing)?;
                continue;
            };
            let put = content.put(key.clone(), *stored);
            let written = hot::put_all(&mut self.redis, std::slice::from_ref(&put))
                .await
                .context(doing)?;
            let is_too_new = stored.is_some_and(|stored| stored > put.revision);
            if is_too_new && written == [PutResult::Outdated] {
                hot::remove(key).exec_async(&mut self.redis).await.context(doing)?;
                let whole = Put { base: None, ..put };
                hot::put_all(&mut self.redis, &[whole]).await.context(doing)?;
            }
        }
        Ok(())
    }
}

impl Content {
    fn put(&self, key: Key, base: Option<Revision>) -> Put {
        match self {
            Self::Candle {
                timeframe,
                symbol,
                candle,
                is_final,
            } => Put {
                key,
                revision: candle.revision,
                base,
                ttl_ms: timeframe.micros() / 1_000 + TTL_MS,
                renews_ttl: false,
                channel: keys::candle_channel(*timeframe, symbol),
                message: codec::candles::message(symbol, candle, *is_final),
                fields: codec::candles::hash_fields(candle, *is_final),
            },
            Self::Tick(accepted) => latest::put(accepted, base),
        }
    }
}

fn different_tick(key: Key, hash: &HashMap<String, String>, latest: Option<&AcceptedTick>) -> HotFinding {
    let field = |name: &str| hash.get(name).map_or("", String::as_str);
    let shown = |values: [&str; 4]| format!("({})", values.join(","));
    HotFinding {
        key,
        found: shown(["price", "qty", "ts_us", "revision"].map(field)),
        expected: latest.map_or("no tick".to_owned(), |AcceptedTick { tick, revision, .. }| {
            shown([
                &tick.price.to_string(),
                &tick.qty.to_string(),
                &tick.ts_us.to_string(),
                &revision.to_string(),
            ])
        }),
        put: latest.map(|latest| Right {
            stored: field("revision").parse().ok(),
            content: Content::Tick(latest.clone()),
        }),
    }
}

/// Compares the values that the history knows of a candle. `since` and the times of the first and last tick are
/// bookkeeping of hot-writer.
fn is_same(a: &Candle, b: &Candle) -> bool {
    let values = |candle: &Candle| (candle.open, candle.high, candle.low, candle.close, candle.trades);
    values(a) == values(b) && a.volume == b.volume
}

fn shown(candle: &Candle) -> String {
    format!(
        "({},{},{},{},{},{}) at revision {}",
        candle.open, candle.high, candle.low, candle.close, candle.volume, candle.trades, candle.revision
    )
}
