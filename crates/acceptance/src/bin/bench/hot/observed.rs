//! Messages and ticks of a live feed, and what they say about freshness.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use anyhow::{Context, ensure};
use storage_core::domain::timeframe::Timeframe;

/// A tick that the producer sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Index of its symbol.
    pub(crate) symbol: usize,
    pub(crate) at_us: u64,
}

/// Number of channels of a symbol: its latest tick and its candle of each timeframe, in this order.
pub(crate) const CHANNELS: usize = 1 + Timeframe::ALL.len();

/// Kind of a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Latest tick.
    Tick,
    /// Candle of one minute.
    Minute,
    /// Candle of a larger timeframe.
    Larger,
}

impl Kind {
    fn channels(self) -> Range<usize> {
        match self {
            Self::Tick => 0..1,
            Self::Minute => 1..2,
            Self::Larger => 2..CHANNELS,
        }
    }
}

/// A message that the subscriber received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Index of its channel among those of its symbol.
    pub(crate) channel: usize,
    /// Index of its symbol.
    pub(crate) symbol: usize,
    /// Time at which the newest tick in it was sent.
    pub(crate) newest_us: u64,
    pub(crate) received_us: u64,
    /// `true` for a final candle.
    pub(crate) is_final: bool,
}

impl Message {
    /// Parses a message on `tick:<SYMBOL>` or `candle:<TF>:<SYMBOL>`.
    pub(crate) fn parse(channel: &[u8], text: &[u8], received_us: u64) -> anyhow::Result<Self> {
        let name = str::from_utf8(channel)?;
        let (kind, symbol) = name.rsplit_once(":S").with_context(|| format!("a message on {name}"))?;
        let (channel, newest, is_final) = match kind.strip_prefix("candle:") {
            Some(timeframe) => {
                let timeframe: Timeframe = timeframe.parse()?;
                let is_final = value(text, br#""final":"#)?.starts_with(b"true");
                (1 + timeframe as usize, value(text, br#""last_us":"#)?, is_final)
            }
            None => (0, value(text, br#""ts_us":"#)?, false),
        };
        Ok(Self {
            channel,
            symbol: number(symbol.as_bytes()).try_into()?,
            newest_us: number(newest),
            received_us,
            is_final,
        })
    }
}

/// Returns what follows a name in JSON, without spaces and quotation marks.
fn value<'a>(text: &'a [u8], name: &[u8]) -> anyhow::Result<&'a [u8]> {
    let found = text.windows(name.len()).position(|part| part == name);
    let found = found.with_context(|| format!("no {} in a message", String::from_utf8_lossy(name)))?;
    let mut value = &text[found + name.len()..];
    while let [b' ' | b'"', rest @ ..] = value {
        value = rest;
    }
    Ok(value)
}

/// Returns the number that `text` begins with.
fn number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// A live feed as its subscriber saw it.
pub(crate) struct Observed {
    /// All ticks, in order.
    pub(crate) sent: Vec<Sent>,
    /// All messages, in order.
    pub(crate) messages: Vec<Message>,
    /// Begin and end of the measured time.
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
    /// CPU time of Redis per tick.
    pub(crate) redis_us: f64,
    /// CPU time of the workers per tick.
    pub(crate) worker_us: f64,
}

/// Durations in ms, in ascending order.
#[derive(Debug)]
pub(crate) struct Durations(Vec<f64>);

impl Durations {
    /// Returns `None` if there are no durations.
    fn of_us(durations_us: impl Iterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<f64> = durations_us.map(|us| us as f64 / 1_000.0).collect();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Self(sorted))
    }

    pub(crate) fn quantile(&self, share: f64) -> f64 {
        self.0[(self.0.len() as f64 * share) as usize]
    }
}

impl Observed {
    /// Returns the ages of the messages with latest ticks or open candles: from sending the newest tick in a message
    /// until it was received.
    pub(crate) fn ages(&self, kind: Kind) -> anyhow::Result<Durations> {
        let ages = self.of_kind(kind).filter(|message| !message.is_final);
        let ages = ages.filter(|message| (self.from_us..self.to_us).contains(&message.received_us));
        let ages = ages.map(|message| message.received_us.saturating_sub(message.newest_us));
        Durations::of_us(ages).with_context(|| format!("no message of kind {kind:?}"))
    }

    /// Returns the times from `due_us` until each final candle was received.
    pub(crate) fn finals(&self, kind: Kind, due_us: u64) -> anyhow::Result<Durations> {
        let finals = self.of_kind(kind).filter(|message| message.is_final);
        let delays = finals.map(|message| message.received_us.saturating_sub(due_us));
        Durations::of_us(delays).with_context(|| format!("no final message of kind {kind:?}"))
    }

    /// Returns the messages of a kind per second.
    pub(crate) fn per_s(&self, kind: Kind) -> f64 {
        let measured = self.from_us..self.to_us;
        let messages = self.of_kind(kind);
        let messages = messages.filter(|message| measured.contains(&message.received_us));
        messages.count() as f64 * 1e6 / (self.to_us - self.from_us) as f64
    }

    /// Returns the times from sending each tick to the first message that counts it, on each channel of a kind.
    pub(crate) fn delays(&self, kind: Kind) -> anyhow::Result<Durations> {
        self.delays_between(kind, self.from_us, self.to_us)
    }

    /// Returns [`delays`](Self::delays) of the ticks that were sent in a part of the time.
    pub(crate) fn delays_between(&self, kind: Kind, from_us: u64, to_us: u64) -> anyhow::Result<Durations> {
        let delays = self.symbol_delays(kind, from_us, to_us)?;
        Durations::of_us(delays.map(|(_, delay_us)| delay_us)).context("no ticks")
    }

    /// Returns the share of the traded symbols of which every tick was in a message of a kind within `limit_us`.
    pub(crate) fn share_within(&self, kind: Kind, limit_us: u64) -> anyhow::Result<f64> {
        let mut longest: HashMap<usize, u64> = HashMap::new();
        for (symbol, delay_us) in self.symbol_delays(kind, self.from_us, self.to_us)? {
            let longest = longest.entry(symbol).or_default();
            *longest = delay_us.max(*longest);
        }
        let within = longest.values().filter(|longest| **longest <= limit_us).count();
        Ok(within as f64 / longest.len() as f64)
    }

    /// Returns symbol and delay of each tick that was sent in a part of the time.
    fn symbol_delays(
        &self,
        kind: Kind,
        from_us: u64,
        to_us: u64,
    ) -> anyhow::Result<impl Iterator<Item = (usize, u64)>> {
        let arrivals = self.arrivals(kind)?.into_iter();
        let arrivals = arrivals.filter(move |(tick, _)| (from_us..to_us).contains(&tick.at_us));
        Ok(arrivals.map(|(tick, at_us)| (tick.symbol, at_us.saturating_sub(tick.at_us))))
    }

    /// Returns each tick with the time of the first message that counts it, on each channel of a kind. Fails if a tick
    /// is in no message.
    pub(crate) fn arrivals(&self, kind: Kind) -> anyhow::Result<Vec<(Sent, u64)>> {
        let symbols = self.sent.iter().map(|tick| tick.symbol).max().unwrap_or_default() + 1;
        let mut ticks: Vec<VecDeque<Sent>> = vec![VecDeque::new(); symbols];
        for tick in &self.sent {
            ticks[tick.symbol].push_back(*tick);
        }
        let mut waiting = vec![ticks; CHANNELS];
        let mut arrivals = Vec::with_capacity(self.sent.len() * kind.channels().len());
        for message in self.of_kind(kind) {
            let waiting = &mut waiting[message.channel][message.symbol];
            while let Some(tick) = waiting.pop_front_if(|tick| tick.at_us <= message.newest_us) {
                arrivals.push((tick, message.received_us));
            }
        }
        let missing = self.sent.len() * kind.channels().len() - arrivals.len();
        ensure!(
            missing == 0,
            "no message of kind {kind:?} counts {missing} of the ticks"
        );
        Ok(arrivals)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Message> {
        let channels = kind.channels();
        self.messages
            .iter()
            .filter(move |message| channels.contains(&message.channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_hot_writer_and_of_the_python_worker_are_understood() {
        let parse = |channel: &str, text: &str| {
            let message = Message::parse(channel.as_bytes(), text.as_bytes(), 9).unwrap();
            (message.channel, message.symbol, message.newest_us, message.is_final)
        };
        let tick = r#"{"symbol":"S000007USD","price":1.5,"ts_us":1700000000000001,"revision":"5"}"#;
        assert_eq!(parse("tick:S000007USD", tick), (0, 7, 1_700_000_000_000_001, false));
        let candle = r#"{"symbol": "S000012USD", "last_us": "31", "revision": 5, "final": true}"#;
        assert_eq!(parse("candle:1m:S000012USD", candle), (1, 12, 31, true));
        assert_eq!(
            parse("candle:1d:S000012USD", &candle.replace("true", "false")),
            (6, 12, 31, false)
        );
    }

    /// Three ticks of two symbols; the second message counts two of them.
    fn observed() -> Observed {
        let sent = |symbol, at_us| Sent { symbol, at_us };
        let message = |symbol, newest_us, received_us, is_final| Message {
            channel: 1,
            symbol,
            newest_us,
            received_us,
            is_final,
        };
        Observed {
            sent: vec![sent(0, 1_000), sent(1, 2_000), sent(0, 3_000), sent(0, 4_000)],
            messages: vec![
                message(0, 1_000, 5_000, false),
                message(0, 4_000, 6_000, false),
                message(1, 2_000, 12_000, true),
            ],
            from_us: 2_000,
            to_us: 12_000,
            redis_us: 0.0,
            worker_us: 0.0,
        }
    }

    #[test]
    fn ages_are_those_of_open_candles_and_delays_those_of_ticks() {
        let observed = observed();
        assert_eq!(observed.ages(Kind::Minute).unwrap().0, [2.0, 4.0]);
        assert_eq!(observed.finals(Kind::Minute, 10_000).unwrap().0, [2.0]);
        assert_eq!(observed.delays(Kind::Minute).unwrap().0, [2.0, 3.0, 10.0]);
        assert_eq!(observed.share_within(Kind::Minute, 3_000).unwrap(), 0.5);
        assert_eq!(observed.per_s(Kind::Minute), 200.0);
    }

    #[test]
    fn a_tick_in_no_message_is_an_error() {
        let mut observed = observed();
        observed.messages.pop();
        let error = observed.delays(Kind::Minute).unwrap_err().to_string();
        assert_eq!(error, "no message of kind Minute counts 1 of the ticks");
    }
}
