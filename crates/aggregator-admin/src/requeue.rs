//! Adds dead letters to their streams again, unless they would be rejected again.

use anyhow::{Context, anyhow, bail};
use diesel::QueryResult;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use serde_json::Value;
use storage_core::config::flags::is_field;
use storage_core::config::stream::StreamConfig;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::heartbeat::Heartbeat;
use storage_core::domain::lots::{self, DEFAULT_VOLUME_DECIMALS, Lots, LotsError};
use storage_core::domain::partition::partition_of;
use storage_core::domain::prices::{Prices, check_price};
use storage_core::domain::rejection::Rejection;
use storage_core::domain::signal::Signal;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{AcceptedTick, REQUEUED, Tick};
use storage_core::domain::tick_event::TickEvent;
use storage_core::domain::tick_rules::TickRules;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::dead_letters::{self, DeadLetter};
use storage_core::postgres::queries::ticks::TickRow;
use storage_core::postgres::queries::trades::{self, Write, Written};
use storage_core::postgres::queries::{candles, symbols};
use storage_core::redis::clock::now_ms;
use storage_core::redis::codec;
use storage_core::redis::connection::Connection;
use storage_core::redis::stream::{self, Stream};

/// Fields of an entry as text.
pub(crate) type TextFields = Vec<(String, String)>;

/// Changes of the fields of dead letters before they are requeued.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Changes {
    /// Sets a field to a value; a name with a dot is a key of the configuration
    #[arg(long, value_name = "FIELD=VALUE", value_parser = checked_assignment)]
    set: Vec<String>,
    /// Replaces a value of a field by another one; other values stay
    #[arg(long, value_name = "FIELD=OLD:NEW", value_parser = replacement)]
    map: Vec<(String, String, String)>,
    /// Removes a field
    #[arg(long, value_name = "FIELD", value_parser = field)]
    drop: Vec<String>,
}

impl Changes {
    /// Changes the fields of an entry: replaces values, then sets fields, then removes them.
    pub(crate) fn apply(&self, fields: &mut TextFields) {
        for (name, old, new) in &self.map {
            let matching = fields.iter_mut().filter(|(field, value)| field == name && value == old);
            matching.for_each(|(_, value)| value.clone_from(new));
        }
        let set = self.set.iter().filter(|text| is_field(text));
        for (name, value) in set.filter_map(|text| text.split_once('=')) {
            fields.retain(|(field, _)| field != name);
            fields.push((name.to_owned(), value.to_owned()));
        }
        fields.retain(|(field, _)| !self.drop.contains(field));
    }
}

fn field(name: &str) -> Result<String, String> {
    match name {
        "" => Err("the name of the field is missing".to_owned()),
        REQUEUED => Err(format!("{REQUEUED} identifies the entry and can't be changed")),
        name => Ok(name.to_owned()),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write FIELD=VALUE")?;
    Ok((field(name)?, value.to_owned()))
}

fn checked_assignment(text: &str) -> Result<String, String> {
    assignment(text).map(|_| text.to_owned())
}

fn replacement(text: &str) -> Result<(String, String, String), String> {
    let (name, values) = assignment(text)?;
    let (old, new) = values.rsplit_once(':').ok_or("write FIELD=OLD:NEW")?;
    Ok((name, old.to_owned(), new.to_owned()))
}

/// Returns the fields of the entry of a dead letter, and its first ID in the field [`REQUEUED`].
pub(crate) fn fields(letter: &DeadLetter) -> anyhow::Result<TextFields> {
    if letter.truncated {
        bail!("a value was too long and was cut, so it can't be requeued");
    }
    let Value::Object(object) = &letter.fields else {
        bail!("its fields are not an object")
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut fields: Vec<_> = object.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    if !object.contains_key(REQUEUED) {
        fields.push((REQUEUED.to_owned(), letter.entry_id.clone()));
    }
    Ok(fields)
}

/// Returns the stream of a requeued entry. A tick goes to the partition of its symbol, not to its former stream.
pub(crate) fn destination(letter: &DeadLetter, fields: &TextFields, partitions: u16) -> anyhow::Result<Stream> {
    let symbol = fields.iter().find(|(name, _)| name == "symbol");
    let symbol = symbol.and_then(|(_, symbol)| symbol.parse::<Symbol>().ok());
    Ok(match (letter.stream.parse()?, symbol) {
        (Stream::Ticks(_), Some(symbol)) => Stream::Ticks(partition_of(&symbol, partitions)),
        (stream, _) => stream,
    })
}

/// Rules by which the readers of a stream would reject an entry.
pub(crate) struct Judge<'a> {
    pub(crate) config: &'a StreamConfig,
    pub(crate) partitions: u16,
}

impl Judge<'_> {
    /// Returns the reason for which the readers of `stream` would reject an entry with `fields`. Rejections by the
    /// database and by an open minute can't be foreseen.
    pub(crate) async fn verdict(
        &self,
        connection: &mut AsyncPgConnection,
        redis: &mut Connection,
        stream: Stream,
        fields: &TextFields,
    ) -> anyhow::Result<Result<(), Rejection>> {
        let now_ms = now_ms(redis).await.context("reading the clock")?;
        let entry = Entry::new(
            StreamId::at_ms(now_ms),
            fields.iter().map(|(name, value)| (name, value)),
        );
        let verdict = match stream {
            Stream::Ticks(partition) => match self.tick_rules(partition).decode(&entry, now_ms) {
                Ok(event) => tick(connection, event).await,
                Err(reason) => Ok(Err(reason)),
            },
            Stream::Signals => match Signal::from_entry(&entry, self.config.before_1973) {
                Ok(signal) => price(connection, &signal.symbol, signal.price).await,
                Err(reason) => Ok(Err(reason)),
            },
            Stream::Candles(_) => match codec::candles::decode_entry(&entry) {
                Ok((symbol, candle)) => volume(connection, &symbol, candle.volume).await,
                Err(reason) => Ok(Err(reason)),
            },
            Stream::Feeds => Ok(Heartbeat::from_entry(&entry, self.config.before_1973).map(|_| ())),
            Stream::Repairs => Ok(codec::repairs::decode_task(&entry).map(|_| ())),
            Stream::Rollups => Ok(codec::rollups::decode_entry(&entry).map(|_| ())),
            Stream::Backups | Stream::Dead => Ok(Ok(())),
        };
        verdict.explained("reading the properties of a symbol")
    }

    fn tick_rules(&self, partition: u16) -> TickRules {
        TickRules {
            partition,
            partitions: self.partitions,
            max_future: self.config.max_future,
            before_1973: self.config.before_1973,
        }
    }
}

async fn decimals(connection: &mut AsyncPgConnection, symbol: &Symbol) -> QueryResult<u8> {
    let known = symbols::decimals(connection, &[symbol]).await?;
    Ok(known.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS))
}

async fn price(connection: &mut AsyncPgConnection, symbol: &Symbol, price: f64) -> QueryResult<Result<(), Rejection>> {
    let prices = match symbols::with_any_price(connection, &[symbol]).await?.is_empty() {
        true => Prices::Positive,
        false => Prices::Any,
    };
    Ok(check_price(symbol, price, prices))
}

async fn tick(connection: &mut AsyncPgConnection, event: TickEvent) -> QueryResult<Result<(), Rejection>> {
    if let Some(of_event) = event.price()
        && let Err(reason) = price(connection, event.symbol(), of_event).await?
    {
        return Ok(Err(reason));
    }
    let decimals = decimals(connection, event.symbol()).await?;
    let fitted = match &event {
        TickEvent::Trade(accepted) => fitting(connection, accepted, decimals).await?.map(Write::Trade),
        TickEvent::Amendment(amendment) => amendment.clone().rounded(decimals).map(Write::Amendment),
    };
    Ok(match fitted {
        Ok(entry) => match trades::judge(connection, &entry, decimals).await? {
            Written::Rejected(reason) => Err(reason),
            _ => Ok(()),
        },
        Err(reason) => Err(reason),
    })
}

/// Returns the row of a trade if its quantity fits its minute.
async fn fitting(
    connection: &mut AsyncPgConnection,
    accepted: &AcceptedTick,
    decimals: u8,
) -> QueryResult<Result<TickRow, Rejection>> {
    let tick = &accepted.tick;
    let lots = match tick.lots(decimals) {
        Ok(lots) => lots,
        Err(reason) => return Ok(Err(reason)),
    };
    let start_us = Timeframe::M1.bucket_start_us(tick.ts_us);
    let stored = candles::minute(connection, &tick.symbol, start_us).await?;
    let held_lots = stored.map_or(0, |stored| stored.volume_lots);
    Ok(match held_lots.checked_add(lots.count) {
        Some(_) => TickRow::new(accepted, lots.count),
        None => {
            let held = Decimal::from_lots(held_lots.into(), decimals);
            Err(tick.lots_rejection(held, LotsError::TooLarge, decimals))
        }
    })
}

async fn volume(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    volume: Decimal,
) -> QueryResult<Result<(), Rejection>> {
    let decimals = decimals(connection, symbol).await?;
    let lots = Lots::of(volume, decimals);
    Ok(lots
        .map(|_| ())
        .map_err(|error| lots::rejection(symbol, volume, Decimal::ZERO, error, decimals)))
}

/// Decodes the tick of a dead letter, whatever its time and partition.
pub(crate) fn tick_of(fields: &TextFields) -> Option<Tick> {
    let entry = Entry::new(StreamId::START, fields.iter().map(|(name, value)| (name, value)));
    Tick::from_entry(&entry).ok()
}

/// Writes `fields` to `stream` and marks the dead letter as requeued, under a lock that prevents a second requeue.
/// Returns the new ID.
pub(crate) async fn requeue(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    letter: &DeadLetter,
    stream: Stream,
    fields: &TextFields,
) -> anyhow::Result<String> {
    connection
        .transaction(async |connection| {
            let current = dead_letters::lock(connection, &letter.stream, &letter.entry_id).await?;
            let current = current.context("it was removed meanwhile")?;
            if let Some(as_id) = current.requeued_as {
                return Err(anyhow!("it was requeued already, as {as_id}"));
            }
            let new_id: String = stream::add(stream, fields)
                .query_async(redis)
                .await
                .context("writing the entry")?;
            dead_letters::mark_requeued(connection, &letter.stream, &letter.entry_id, &new_id).await?;
            Ok(new_id)
        })
        .await
}

/// Returns the name of a dead letter, as `dead-letters list` shows it.
pub(crate) fn name(letter: &DeadLetter) -> String {
    format!("{}/{}", letter.stream.trim_start_matches("stream:"), letter.entry_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn letter(stream: &str, fields: Value) -> DeadLetter {
        DeadLetter {
            stream: stream.into(),
            entry_id: "5-1".into(),
            reason: String::new(),
            fields,
            truncated: false,
            first_seen: chrono::DateTime::UNIX_EPOCH,
            requeued_at: None,
            requeued_as: None,
        }
    }

    #[test]
    fn a_tick_is_requeued_to_the_partition_of_its_symbol_with_its_first_id() {
        let symbol: Symbol = "XRPETH".parse().unwrap();
        let tick = letter("stream:ticks:9", json!({"symbol": "XRPETH", "requeued": "1-1"}));
        let found = fields(&tick).unwrap();
        assert!(found.contains(&(REQUEUED.into(), "5-1".into())));
        let stream = destination(&tick, &found, 4).unwrap();
        assert_eq!(stream, Stream::Ticks(partition_of(&symbol, 4)));
        let again = letter("stream:signals", json!({REQUEUED: "1-1"}));
        assert_eq!(fields(&again).unwrap(), [(REQUEUED.into(), "1-1".into())]);
    }

    #[test]
    fn a_truncated_entry_or_one_without_a_stream_is_not_requeued() {
        let cut = DeadLetter {
            truncated: true,
            ..letter("stream:signals", json!({}))
        };
        assert!(fields(&cut).is_err());
        assert!(destination(&letter("stream:elsewhere", json!({})), &Vec::new(), 4).is_err());
    }

    #[test]
    fn fields_are_replaced_set_and_removed() {
        let changes = Changes {
            set: vec!["price=5=6".to_owned(), "redis.url=redis://x".to_owned()],
            map: vec![
                replacement("symbol=BTC:USDT:BTCUSDT").unwrap(),
                replacement("side=x:y").unwrap(),
            ],
            drop: vec![field("qty").unwrap()],
        };
        let text = |fields: &[(&str, &str)]| -> TextFields {
            fields
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect()
        };
        let mut entry = text(&[("symbol", "BTC:USDT"), ("price", "1"), ("side", "z"), ("qty", "2")]);
        changes.apply(&mut entry);
        assert_eq!(entry, text(&[("symbol", "BTCUSDT"), ("side", "z"), ("price", "5=6")]));
        for text in ["price", "=5", "storage_requeued=1-1"] {
            assert!(assignment(text).is_err(), "{text}");
        }
        assert!(replacement("side=buy").is_err());
    }
}
