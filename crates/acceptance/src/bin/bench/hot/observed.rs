//! Messages and ticks of a live feed, and what they say about freshness.

use std::collections::VecDeque;

use anyhow::{Context, bail, ensure};

/// A tick that the producer sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Index of its symbol.
    pub(crate) symbol: usize,
    pub(crate) at_us: u64,
}

/// Kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Latest tick.
    Tick,
    /// Open 1-minute candle.
    Minute,
    /// Open candle of a larger timeframe.
    Larger,
    /// Final 1-minute candle.
    FinalMinute,
    /// Final candle of a larger timeframe.
    FinalLarger,
}

impl Kind {
    pub(crate) const COUNT: usize = 5;

    /// Returns the kind of message in which a subscriber of open candles sees the ticks of this message.
    pub(crate) fn of_ticks(self) -> Self {
        match self {
            Self::FinalMinute => Self::Minute,
            Self::FinalLarger => Self::Larger,
            open => open,
        }
    }
}

/// A message that the subscriber received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// Index of its symbol.
    pub(crate) symbol: usize,
    /// Time at which the newest tick in it was sent.
    pub(crate) newest_us: u64,
    pub(crate) received_us: u64,
}

impl Message {
    /// Parses a message on `tick:<SYMBOL>` or `candle:<TF>:<SYMBOL>`.
    pub(crate) fn parse(channel: &[u8], text: &[u8], received_us: u64) -> anyhow::Result<Self> {
        let mut parts = channel.split(|byte| *byte == b':');
        let (kind, symbol) = match (parts.next(), parts.next(), parts.next()) {
            (Some(b"tick"), Some(symbol), None) => (Kind::Tick, symbol),
            (Some(b"candle"), Some(timeframe), Some(symbol)) => {
                let is_final = value(text, br#""final":"#)?.starts_with(b"true");
                let kind = match (timeframe, is_final) {
                    (b"1m", false) => Kind::Minute,
                    (b"1m", true) => Kind::FinalMinute,
                    (_, false) => Kind::Larger,
                    (_, true) => Kind::FinalLarger,
                };
                (kind, symbol)
            }
            _ => bail!("a message on {}", String::from_utf8_lossy(channel)),
        };
        let newest: &[u8] = if kind == Kind::Tick {
            br#""ts_us":"#
        } else {
            br#""last_us":"#
        };
        Ok(Self {
            kind,
            symbol: number(symbol.strip_prefix(b"S").context("a symbol of the load")?).try_into()?,
            newest_us: number(value(text, newest)?),
            received_us,
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
pub(crate) struct Durations(Vec<f64>);

impl Durations {
    fn of_us(durations_us: impl Iterator<Item = u64>) -> Self {
        let mut sorted: Vec<f64> = durations_us.map(|us| us as f64 / 1_000.0).collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let at = (self.0.len() as f64 * share) as usize;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }
}

impl Observed {
    /// Returns the ages of the messages of a kind: from sending the newest tick in it until it was received.
    pub(crate) fn ages(&self, kind: Kind) -> anyhow::Result<Durations> {
        self.ages_between(kind, self.from_us, self.to_us)
    }

    /// Returns the ages of the messages that were received in a part of the time.
    pub(crate) fn ages_between(&self, kind: Kind, from_us: u64, to_us: u64) -> anyhow::Result<Durations> {
        let ages = self
            .of_kind(kind)
            .filter(|message| (from_us..to_us).contains(&message.received_us));
        let ages = Durations::of_us(ages.map(|message| message.received_us.saturating_sub(message.newest_us)));
        ensure!(!ages.0.is_empty(), "no message of kind {kind:?}");
        Ok(ages)
    }

    /// Returns the messages of a kind per second.
    pub(crate) fn per_s(&self, kind: Kind) -> f64 {
        let measured = self.from_us..self.to_us;
        let messages = self
            .of_kind(kind)
            .filter(|message| measured.contains(&message.received_us));
        messages.count() as f64 * 1e6 / (self.to_us - self.from_us) as f64
    }

    /// Returns the times from sending each tick to the first message of a kind that counts it.
    pub(crate) fn delays(&self, kind: Kind) -> anyhow::Result<Durations> {
        Ok(Durations::of_us(
            self.measured_delays(kind)?.map(|(_, delay_us)| delay_us),
        ))
    }

    /// Returns the share of the traded symbols of which every tick was in a message of a kind within `limit_us`.
    pub(crate) fn share_within(&self, kind: Kind, limit_us: u64) -> anyhow::Result<f64> {
        let symbols = self.sent.iter().map(|tick| tick.symbol).max().unwrap_or_default() + 1;
        let mut longest = vec![None; symbols];
        for (symbol, delay_us) in self.measured_delays(kind)? {
            longest[symbol] = longest[symbol].max(Some(delay_us));
        }
        let traded: Vec<u64> = longest.into_iter().flatten().collect();
        let within = traded.iter().filter(|longest| **longest <= limit_us).count();
        Ok(within as f64 / traded.len() as f64)
    }

    /// Returns symbol and delay of each tick of the measured time.
    fn measured_delays(&self, kind: Kind) -> anyhow::Result<impl Iterator<Item = (usize, u64)>> {
        let arrivals = self.arrivals(kind)?.into_iter();
        let measured = self.from_us..self.to_us;
        let arrivals = arrivals.filter(move |(tick, _)| measured.contains(&tick.at_us));
        Ok(arrivals.map(|(tick, at_us)| (tick.symbol, at_us.saturating_sub(tick.at_us))))
    }

    /// Returns each tick with the time of the first message of a kind that counts it. Fails if no message does.
    pub(crate) fn arrivals(&self, kind: Kind) -> anyhow::Result<Vec<(Sent, u64)>> {
        let symbols = self.sent.iter().map(|tick| tick.symbol).max().unwrap_or_default() + 1;
        let mut waiting: Vec<VecDeque<Sent>> = vec![VecDeque::new(); symbols];
        for tick in &self.sent {
            waiting[tick.symbol].push_back(*tick);
        }
        let mut arrivals = Vec::with_capacity(self.sent.len());
        for message in self.messages.iter().filter(|message| message.kind.of_ticks() == kind) {
            while let Some(tick) = waiting[message.symbol].pop_front_if(|tick| tick.at_us <= message.newest_us) {
                arrivals.push((tick, message.received_us));
            }
        }
        let missing: usize = waiting.iter().map(VecDeque::len).sum();
        ensure!(
            missing == 0,
            "no message of kind {kind:?} counts {missing} of {} ticks",
            self.sent.len()
        );
        Ok(arrivals)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(move |message| message.kind == kind)
    }
}
