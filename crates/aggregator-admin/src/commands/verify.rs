//! `verify`: compares every candle with its source, and mends what is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use humantime_serde::re::humantime::parse_duration;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{TimeRange, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::completeness;
use storage_core::postgres::queries::verify::source_table;
use storage_core::terminal::{say, table, thousands, visible};

use crate::cli::{range, time};
use crate::config::Config;
use crate::pieces::{self, Pace};
use crate::stores::{Stores, history, refuse_other_database};
use crate::verify::{Checked, Class, Finding, Verifier, repair};

/// Maximum number of differences that are shown per timeframe.
const MAX_SHOWN: usize = 10;
/// Limit of the rounds in which a piece is mended and compared again.
const ROUNDS: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Symbol to check; all without it
    #[arg(long)]
    symbol: Option<Symbol>,
    /// First day to check: 2019-10-11
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// End of the days to check; this day is not checked
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
    /// Longest wait for workers that have not processed their streams, before a difference is reported
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    wait: Duration,
    /// Mends what is wrong: computes minutes from their ticks, larger candles from their minutes, and the hot view, and
    /// lets warm-syncer write ticks again that `ticks` lacks and a stream still holds
    #[arg(long)]
    repair: bool,
    /// Also lowers and removes minutes that count trades which `ticks` lacks, unless retention has dropped these
    #[arg(long, requires = "repair")]
    force: bool,
}

/// Totals over all pieces.
#[derive(Default)]
struct Totals {
    compared: BTreeMap<Timeframe, i64>,
    waiting: BTreeMap<Timeframe, usize>,
    different: BTreeMap<Timeframe, usize>,
    classes: BTreeMap<Class, Extent>,
    mended: usize,
    hot: [usize; 3],
}

/// Findings of a class.
struct Extent {
    count: usize,
    range: TimeRange,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let range = range(args.from, args.to)?;
    let mut stores = Stores::new(config);
    let (mut connection, server) = history(&stores.pool).await?;
    completeness::update_borders(&mut connection, server.edition)
        .await
        .explained("looking for dropped chunks")?;
    if args.repair {
        refuse_other_database(&mut stores.redis, &mut connection).await?;
    }
    let mut verifier = Verifier::new(config, connection, server, args.wait).await?;
    let mut totals = Totals::default();
    let days = verifier.days(range, &Timeframe::ALL).await?;
    pieces::for_each(
        &days,
        Pace::new(Timeframe::D1, 1),
        async |piece| check(&mut verifier, args, piece, &mut totals).await,
        |from_us| resume(args, from_us),
    )
    .await?;
    // The hot view holds the present.
    if args.to.is_none() {
        check_hot(&mut verifier, args, &mut totals).await?;
    }
    report(&totals, args, |timeframe| verifier.compared_us(timeframe))
}

async fn check(verifier: &mut Verifier<'_>, args: &Args, piece: TimeRange, totals: &mut Totals) -> anyhow::Result<()> {
    let symbol = args.symbol.as_ref();
    let mut checked = verifier.check(symbol, piece).await?;
    totals.count(&checked);
    if args.repair {
        for _ in 0..ROUNDS {
            let mendable = |finding: &&Finding| args.force || finding.class != Class::TicksMissing;
            let mendable: Vec<Finding> = checked.findings.iter().filter(mendable).cloned().collect();
            if mendable.is_empty() {
                break;
            }
            let moved = repair(verifier, &mendable, args.force).await?;
            for (stream, to) in &moved {
                say(format_args!(
                    "moved warm-syncer back to {to} on {}; it writes the ticks from there again",
                    stream.key()
                ))?;
            }
            let mut again = verifier.check(symbol, piece).await?;
            let mut waiting: usize = 0;
            if !moved.is_empty() {
                // What warm-syncer has written during the first comparison counts as mended in the second.
                again = verifier.check(symbol, piece).await?;
                waiting = again.waiting.values().sum();
            }
            let is_stuck = mendable.iter().all(|finding| again.findings.contains(finding));
            totals.mended += checked.findings.len().saturating_sub(again.findings.len() + waiting);
            checked = again;
            if is_stuck {
                break;
            }
        }
    }
    totals.keep(&checked.findings)
}

async fn check_hot(verifier: &mut Verifier<'_>, args: &Args, totals: &mut Totals) -> anyhow::Result<()> {
    let symbol = args.symbol.as_ref();
    let mut checked = verifier.check_hot(symbol).await?;
    let compared = checked.compared;
    if args.repair && !checked.findings.is_empty() {
        verifier.mend_hot(&checked.findings).await?;
        let again = verifier.check_hot(symbol).await?;
        totals.mended += checked.findings.len().saturating_sub(again.findings.len());
        checked = again;
    }
    for finding in checked.findings.iter().take(MAX_SHOWN) {
        say(format_args!(
            "{}: found {}, expected {}",
            finding.key, finding.found, finding.expected
        ))?;
    }
    totals.hot = [compared, checked.findings.len(), checked.waiting];
    Ok(())
}

impl Totals {
    fn count(&mut self, checked: &Checked) {
        for (timeframe, compared) in &checked.compared {
            *self.compared.entry(*timeframe).or_default() += compared;
        }
        for (timeframe, waiting) in &checked.waiting {
            *self.waiting.entry(*timeframe).or_default() += waiting;
        }
    }

    /// Adds findings that stay, and prints the first ones of each timeframe.
    fn keep(&mut self, findings: &[Finding]) -> anyhow::Result<()> {
        for finding in findings {
            let shown = self.different.entry(finding.timeframe).or_default();
            *shown += 1;
            if *shown <= MAX_SHOWN {
                say(describe(finding))?;
            }
            let from_us = finding.difference.time.timestamp_micros();
            let to_us = from_us + finding.timeframe.micros();
            let extent = self.classes.entry(finding.class).or_insert(Extent {
                count: 0,
                range: TimeRange { from_us, to_us },
            });
            extent.count += 1;
            extent.range = TimeRange {
                from_us: extent.range.from_us.min(from_us),
                to_us: extent.range.to_us.max(to_us),
            };
        }
        Ok(())
    }
}

/// Prints the result. `compared_us` returns the start of the first candle whose source is complete.
fn report(totals: &Totals, args: &Args, compared_us: impl Fn(Timeframe) -> i64) -> anyhow::Result<()> {
    let mut shown = table(&["timeframe", "source", ">candles", ">different", ">not yet written"]);
    let count = |counts: &BTreeMap<Timeframe, usize>, timeframe| counts.get(&timeframe).copied().unwrap_or(0);
    for timeframe in Timeframe::ALL {
        shown.add_row([
            timeframe.label().to_owned(),
            source_table(timeframe).to_owned(),
            thousands(totals.compared.get(&timeframe).copied().unwrap_or(0)),
            count(&totals.different, timeframe).to_string(),
            count(&totals.waiting, timeframe).to_string(),
        ]);
    }
    let [compared, different, waiting] = totals.hot.map(|count| count.to_string());
    shown.add_row(["hot view".to_owned(), "ticks".to_owned(), compared, different, waiting]);
    say(shown)?;
    for timeframe in Timeframe::ALL {
        let border_us = compared_us(timeframe);
        if border_us > args.from.unwrap_or(i64::MIN) {
            say(format_args!(
                "{timeframe} before {}: retention has dropped rows, so only candles that lack trades are found",
                rfc3339(border_us)
            ))?;
        }
    }
    if totals.mended > 0 {
        say(format_args!("mended {} differences", totals.mended))?;
    }
    let differ = totals.hot[1] + totals.different.values().sum::<usize>();
    if differ == 0 {
        return Ok(());
    }
    let advice = totals
        .classes
        .iter()
        .map(|(class, extent)| advice(*class, extent, args));
    let hot = (totals.hot[1] > 0).then(|| {
        format!(
            "{} hashes of the hot view: run `{}`",
            totals.hot[1],
            command(args, "verify --repair", None)
        )
    });
    let advice: Vec<String> = advice.chain(hot).collect();
    let differ = match differ {
        1 => "1 candle differs from its source".to_owned(),
        many => format!("{many} candles differ from their source"),
    };
    bail!("{differ}; {}", advice.join("; "))
}

/// Returns the command for the findings of a class.
fn advice(class: Class, Extent { count, range }: &Extent, args: &Args) -> String {
    let range = range.widened_to(Timeframe::D1);
    let repair = |options| command(args, options, Some(range));
    match class {
        Class::Minute => format!(
            "{count} minutes differ from their ticks: run `{}`",
            repair("verify --repair")
        ),
        Class::Larger => format!(
            "{count} larger candles differ from their minutes: run `aggregator-admin refresh --from {} --to {}`",
            rfc3339(range.from_us),
            rfc3339(range.to_us)
        ),
        Class::TicksInStream => format!(
            "{count} minutes count trades that `ticks` lacks and the streams still hold: run `{}`, which lets \
             warm-syncer write them again",
            repair("verify --repair")
        ),
        Class::TicksMissing => format!(
            "{count} minutes count trades that neither `ticks` nor a stream holds: only a file of trades \
             (tick-replayer) or a backup (backup-runner) brings them back; if the minutes are wrong, run `{}`, which \
             lowers them",
            repair("verify --repair --force")
        ),
    }
}

fn command(args: &Args, options: &str, range: Option<TimeRange>) -> String {
    let mut command = format!("aggregator-admin {options}");
    if let Some(symbol) = &args.symbol {
        command.push_str(&format!(" --symbol {symbol}"));
    }
    if let Some(range) = range {
        let [from, to] = [range.from_us, range.to_us].map(rfc3339);
        command.push_str(&format!(" --from {from} --to {to}"));
    }
    command
}

/// Returns the command that continues with the piece that starts at `from_us`.
fn resume(args: &Args, from_us: i64) -> String {
    let options = match (args.repair, args.force) {
        (true, true) => "verify --repair --force",
        (true, false) => "verify --repair",
        _ => "verify",
    };
    let mut resume = format!("{} --from {}", command(args, options, None), rfc3339(from_us));
    if let Some(to_us) = args.to {
        resume.push_str(&format!(" --to {}", rfc3339(to_us)));
    }
    resume
}

fn describe(
    Finding {
        timeframe, difference, ..
    }: &Finding,
) -> String {
    let revision = match difference.is_of_revision() {
        true => [difference.found_revision, difference.expected_revision]
            .map(|revision| revision.map_or(String::new(), |revision| format!(" at revision {revision}"))),
        false => [String::new(), String::new()],
    };
    let shown = |candle: &Option<String>, revision: &str| match candle {
        Some(candle) => format!("{candle}{revision}"),
        None => "no candle".to_owned(),
    };
    format!(
        "{} {timeframe} {}: found {}, expected {}",
        visible(&difference.symbol),
        difference.time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        shown(&difference.found, &revision[0]),
        shown(&difference.expected, &revision[1])
    )
}
