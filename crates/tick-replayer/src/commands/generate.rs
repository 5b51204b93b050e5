//! `tick-replayer generate`: publishes generated ticks or writes them to a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use humantime_serde::re::humantime;
use indicatif::ProgressBar;
use storage_core::config::Misconfigured;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::time::parse_rfc3339;
use storage_core::service::Stopped;
use tokio_util::sync::CancellationToken;

use crate::feed::{self, Report, progress_bar};
use crate::formats::ticks_csv::Writer;
use crate::generate::{Generator, Limit, Plan, Shares};
use crate::outgoing::OutgoingTick;
use crate::pace::{Pace, Speed};
use crate::publish::Publisher;

/// Arguments of `tick-replayer generate`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).args(["duration", "ticks"])))]
pub(crate) struct Args {
    /// Number of symbols: SIM0001, SIM0002, …
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=9_999))]
    symbols: u16,
    /// Ticks per second of event time, for all symbols together; `max` is 1,000,000, published as fast as Redis accepts
    /// them
    #[arg(long, default_value = "1000")]
    rate: Rate,
    /// Duration in event time, such as 10s or 24h; with --rate max, by the clock
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Number of ticks
    #[arg(long, value_name = "N")]
    ticks: Option<u64>,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of ticks that come late, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    late: f64,
    /// Maximum lateness of late ticks
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    lateness: Duration,
    /// Share of ticks that repeat an earlier one with its trade ID, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    duplicate: f64,
    /// Share of invalid ticks, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    invalid: f64,
    /// Event time of the first tick, RFC 3339 or `now` [default: so that no tick is from the future]
    #[arg(long, value_name = "TIME")]
    start: Option<Start>,
    /// Multiple of event time at which the ticks are published, or `max`; a file is written without pauses
    #[arg(long, default_value = "1")]
    speed: Speed,
    /// Output: `redis`, a file in the format ticks-csv, or `-` for stdout
    #[arg(long, value_name = "FILE|redis", default_value = "redis")]
    output: String,
}

/// Ticks per second.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rate {
    PerSecond(f64),
    Max,
}

/// Maximum rate. Redis accepts no more ticks per second, so event times do not run ahead of the clock.
const MAX_RATE: f64 = 1_000_000.0;

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            _ if text == "max" => Ok(Self::Max),
            Ok(rate) if (1e-6..=MAX_RATE).contains(&rate) => Ok(Self::PerSecond(rate)),
            _ => Err("must be max, or ticks per second from 0.000001 to 1000000"),
        }
    }
}

/// Event time of the first tick.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Now,
    At(i64),
}

impl FromStr for Start {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, parse_rfc3339(text)) {
            ("now", _) => Ok(Self::Now),
            (_, Ok(ts_us @ 0..)) => Ok(Self::At(ts_us)),
            _ => Err("must be now, or a time in RFC 3339 from 1970 on, such as 2024-01-01T00:00:00Z"),
        }
    }
}

impl Args {
    /// Creates the plan at the time `now_us`.
    ///
    /// # Errors
    /// [`Misconfigured`] if the options contradict each other.
    fn plan(&self, now_us: i64) -> Result<Plan, Misconfigured> {
        let shares = Shares::new(self.late, self.duplicate, self.invalid).map_err(Misconfigured::new)?;
        let rate = match self.rate {
            Rate::PerSecond(rate) => rate,
            Rate::Max => MAX_RATE,
        };
        let limit = match (self.ticks, self.duration) {
            (Some(ticks), _) => Limit::Ticks(ticks),
            (None, _) if self.clock_duration().is_some() => Limit::Ticks(u64::MAX),
            (None, Some(_)) if self.rate == Rate::Max => {
                return Err(Misconfigured::new("--rate max into a file requires --ticks"));
            }
            (None, duration) => Limit::Duration(duration.unwrap_or_default()),
        };
        let live = self.pace() == Speed::Times(1.0) || self.clock_duration().is_some();
        let start_us = match self.start {
            Some(Start::At(start_us)) => start_us,
            Some(Start::Now) => now_us,
            None if live && self.to_redis() => now_us,
            None => now_us.saturating_sub(limit.expected_us(rate)).max(0),
        };
        Ok(Plan {
            symbols: self.symbols,
            rate,
            limit,
            seed: self.seed,
            start_us,
            shares,
            lateness: self.lateness,
        })
    }

    fn to_redis(&self) -> bool {
        self.output == "redis"
    }

    fn pace(&self) -> Speed {
        if self.rate == Rate::Max { Speed::Max } else { self.speed }
    }

    /// Returns the duration if it is measured by the clock.
    fn clock_duration(&self) -> Option<Duration> {
        self.duration.filter(|_| self.rate == Rate::Max && self.to_redis())
    }
}

/// Generates ticks and prints a report.
pub(crate) async fn run(args: Args, redis: &RedisConfig, token: &CancellationToken) -> anyhow::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("reading the clock")?;
    let plan = args.plan(i64::try_from(now.as_micros())?)?;
    let total = plan.limit.expected_ticks(plan.rate);
    let mut report = Report::default();
    let started = Instant::now();
    let result = if args.to_redis() {
        let until = token.child_token();
        if let Some(duration) = args.clock_duration() {
            end_after(duration, until.clone());
        }
        let publisher = Publisher::open(redis, &until).await?;
        let bar = progress_bar(if args.clock_duration().is_some() { 0 } else { total })?;
        let source = Generator::new(plan).zip(1..).map(Ok);
        let result = feed::feed(source, Pace::new(args.pace()), &publisher, &bar, &until, &mut report).await;
        bar.finish_and_clear();
        result
    } else {
        write(Generator::new(plan), total, &args.output, token, &mut report)
    };
    report.took = started.elapsed();
    report.stopped = token.is_cancelled() && result.as_ref().is_err_and(|error| error.is::<Stopped>());
    report.print();
    result
}

fn end_after(duration: Duration, token: CancellationToken) {
    tokio::spawn(async move {
        tokio::time::sleep(duration).await;
        token.cancel();
    });
}

/// Writes `ticks` to `output` as ticks-csv. It blocks the thread, on which no other task runs.
fn write(
    ticks: impl Iterator<Item = OutgoingTick>,
    total: u64,
    output: &str,
    token: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<()> {
    let out: Box<dyn Write> = if output == "-" {
        Box::new(io::stdout().lock())
    } else {
        let path = Path::new(output);
        Box::new(File::create(path).with_context(|| format!("creating {}", path.display()))?)
    };
    let bar = progress_bar(total)?;
    let written = write_all(ticks, out, &bar, token, report);
    bar.finish_and_clear();
    match written {
        Err(error) if output == "-" && is_broken_pipe(&error) => Ok(()),
        written => written,
    }
}

fn write_all(
    ticks: impl Iterator<Item = OutgoingTick>,
    out: impl Write,
    bar: &ProgressBar,
    token: &CancellationToken,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut writer = Writer::new(BufWriter::new(out))?;
    for tick in ticks {
        if token.is_cancelled() {
            writer.finish()?;
            return Err(Stopped.into());
        }
        writer.write(&tick.fields)?;
        report.count(tick.at_us);
        bar.set_position(report.ticks);
    }
    writer.finish()
}

/// Returns `true` if the reader of stdout went away, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let of_csv = cause.downcast_ref::<csv::Error>().map(csv::Error::kind);
        let io = match of_csv {
            Some(csv::ErrorKind::Io(error)) => Some(error),
            _ => cause.downcast_ref::<io::Error>(),
        };
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const NOW_US: i64 = 1_700_000_000_000_000;
    const SECOND_US: i64 = 1_000_000;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn plan(flags: &str) -> Result<Plan, Misconfigured> {
        Cli::try_parse_from(format!("generate {flags}").split_whitespace())
            .unwrap()
            .args
            .plan(NOW_US)
    }

    fn start(flags: &str) -> i64 {
        plan(flags).unwrap().start_us
    }

    #[test]
    fn by_default_no_tick_is_from_the_future() {
        assert_eq!(start("--duration 10s"), NOW_US);
        assert_eq!(start("--duration 10s --rate max"), NOW_US);
        assert_eq!(start("--duration 10s --speed max"), NOW_US - 10 * SECOND_US);
        assert_eq!(start("--ticks 5000 --speed 20"), NOW_US - 5 * SECOND_US);
        assert_eq!(start("--duration 10s --output -"), NOW_US - 10 * SECOND_US);
        assert_eq!(start("--ticks 2000000 --rate max"), NOW_US - 2 * SECOND_US);
        assert_eq!(start("--ticks 1 --start 1970-01-01T00:00:01Z"), SECOND_US);
        assert_eq!(start("--ticks 1 --speed max --start now"), NOW_US);
    }

    #[test]
    fn the_maximum_rate_ends_by_the_clock() {
        assert_eq!(plan("--duration 10s --rate max").unwrap().limit, Limit::Ticks(u64::MAX));
        assert!(plan("--duration 10s --rate max --output x.csv").is_err());
        assert_eq!(
            plan("--duration 10s").unwrap().limit,
            Limit::Duration(Duration::from_secs(10))
        );
    }

    #[test]
    fn invalid_shares_are_refused() {
        assert!(plan("--ticks 1 --late 0.5 --invalid 0.6").is_err());
        assert!(plan("--ticks 1 --late=-0.1").is_err());
        assert!(plan("--ticks 1 --late NaN").is_err());
        assert!(plan("--ticks 1 --late 0.5 --invalid 0.5").is_ok());
    }

    #[test]
    fn exactly_one_limit_is_required() {
        for flags in [
            "",
            "--ticks 1 --duration 1s",
            "--ticks 1 --rate 0",
            "--ticks 1 --start soon",
            "--ticks 1 --symbols 0",
        ] {
            assert!(
                Cli::try_parse_from(format!("generate {flags}").split_whitespace()).is_err(),
                "{flags}"
            );
        }
    }
}
