//! `queries`: the plans of the queries that workers and commands send, of any given one, and the slowest ones.

use std::fmt::Write;

use anyhow::Context;
use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::connection::connect;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::migrations;
use storage_core::postgres::plans::plan::Plan;
use storage_core::postgres::plans::{ChunkTables, Recorder, SlowStatements, chunk_tables, explain, slow_statements};
use storage_core::postgres::queries::bases;
use storage_core::postgres::queries::candles::{self, Candidate};
use storage_core::postgres::queries::dead_letters::{self, Filter};
use storage_core::postgres::queries::verify::{self, Borders};
use storage_core::postgres::queries::{
    completeness, coverage, newest_ticks, rollups, spans, storage, symbols, tick_versions, ticks,
};
use storage_core::redis::codec::repairs::Base;
use storage_core::terminal::{say, table, thousands};

use crate::config::Config;
use crate::stores::APPLICATION;

/// Number of characters of a statement in a list.
const SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Queries to show with every node of their plans; without names, all in a table
    #[arg(value_enum)]
    names: Vec<Query>,
    /// Statement to explain instead; it runs in a read-only transaction
    #[arg(long, value_name = "STATEMENT", conflicts_with = "names")]
    sql: Option<String>,
    /// Lists the statements that took the most time, from pg_stat_statements
    #[arg(long, conflicts_with_all = ["names", "sql"])]
    slow: bool,
    /// Maximum number of slow statements
    #[arg(long, value_name = "N", default_value_t = 20, requires = "slow")]
    limit: u32,
    /// Symbol of the queries; by default, one with recent candles
    #[arg(long, value_name = "SYMBOL", allow_hyphen_values = true)]
    symbol: Option<Symbol>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// Queries of the workers and commands that read tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Query {
    /// Newest 60 candles of a symbol in each timeframe (`candles`)
    Candles,
    /// Candle of a minute (repairs)
    Minute,
    /// Comparison of closed candles with their rows (warm-syncer)
    Closed,
    /// Ticks and versions of a minute (repairs)
    TicksOfMinute,
    /// Trades of a symbol within an hour, with their versions (`ticks`)
    Trades,
    /// Newest tick of a symbol
    NewestTick,
    /// Newest ticks of all symbols, and minutes that lack them (recovery of Redis)
    Reconcile,
    /// Open candle of a timeframe from its ticks and minutes (hot-writer's beginnings)
    Base,
    /// Day of all symbols compared with its sources by hashes (`verify`)
    Verify,
    /// Evidence of a symbol's day (`gaps`)
    Gaps,
    /// Measurements at intervals (`run`)
    Measure,
    /// Rows and time spans of all tables (`status`)
    Status,
    /// Ticks that retention must not drop yet (`run`)
    Retention,
    /// Dead letters (`dead-letters list`)
    DeadLetters,
}

/// Values with which queries are run.
struct Sample {
    edition: Edition,
    symbol: Symbol,
    symbols: Vec<Symbol>,
    /// Start of the newest minute with candles in µs since 1970.
    minute_us: i64,
}

#[derive(Serialize)]
struct Explanation {
    query: String,
    statement: String,
    reads: Vec<String>,
    problems: Vec<String>,
    plan: Plan,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    // A connection of its own, because it records its statements.
    let mut connection = connect(&config.postgres, APPLICATION).await?;
    let connection = &mut connection;
    if args.slow {
        return show_slow(connection, args).await;
    }
    let chunks = chunk_tables(connection).await.explained("reading the chunks")?;
    let explanations = match &args.sql {
        Some(statement) => {
            let plan = explain(connection, statement, &chunks).await;
            vec![Explanation::new(
                "given",
                statement,
                plan.explained("explaining the statement")?,
            )]
        }
        None => explain_own(connection, args, &chunks).await?,
    };
    if args.json {
        return say(serde_json::to_string_pretty(&explanations)?);
    }
    if args.sql.is_none() && args.names.is_empty() {
        return show_table(&explanations);
    }
    explanations
        .iter()
        .try_for_each(|explanation| say(explanation.detailed()?))
}

/// Sends the queries, and explains the statements that they consist of.
async fn explain_own(
    connection: &mut AsyncPgConnection,
    args: &Args,
    chunks: &ChunkTables,
) -> anyhow::Result<Vec<Explanation>> {
    let sample = Sample::read(connection, args.symbol.clone()).await?;
    let recorder = Recorder::default();
    recorder.record(connection);
    let names = match args.names.as_slice() {
        [] => <Query as clap::ValueEnum>::value_variants(),
        names => names,
    };
    let mut explanations = Vec::new();
    for query in names {
        recorder.take();
        let name = query.name();
        query
            .send(connection, &sample)
            .await
            .explained(&format!("running the query {name}"))?;
        for statement in recorder.take() {
            // Questions to the catalogue have no chunks to exclude.
            if statement.contains("timescaledb_information") || statement.contains("_timescaledb_catalog") {
                continue;
            }
            let plan = explain(connection, &statement, chunks).await;
            let plan = plan.explained(&format!("explaining a statement of {name}"))?;
            explanations.push(Explanation::new(&name, &statement, plan));
        }
    }
    Ok(explanations)
}

impl Sample {
    async fn read(connection: &mut AsyncPgConnection, symbol: Option<Symbol>) -> anyhow::Result<Self> {
        let server = migrations::ensure_current(connection).await?;
        let known = symbols::list(connection).await.explained("reading the symbols")?;
        let symbols: Vec<Symbol> = known.iter().filter_map(|known| known.symbol.parse().ok()).collect();
        let symbol = symbol.or_else(|| symbols.first().cloned());
        let newest_us = spans::newest_minute(connection)
            .await
            .explained("finding the newest minute")?;
        Ok(Self {
            edition: server.edition,
            symbol: symbol.context("the history has no symbols yet")?,
            symbols,
            minute_us: newest_us.context("the history has no candles yet")?,
        })
    }

    /// Returns the last `length_us` up to the end of the newest minute.
    fn last(&self, length_us: i64) -> TimeRange {
        let to_us = self.minute_us + Timeframe::M1.micros();
        TimeRange {
            from_us: to_us - length_us,
            to_us,
        }
    }

    /// Returns the day of the newest minute.
    fn day(&self) -> TimeRange {
        let from_us = Timeframe::D1.bucket_start_us(self.minute_us);
        TimeRange {
            from_us,
            to_us: from_us + Timeframe::D1.micros(),
        }
    }
}

impl Query {
    fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Sends the query as its worker or command does.
    async fn send(self, connection: &mut AsyncPgConnection, sample: &Sample) -> QueryResult<()> {
        let (symbol, day) = (&sample.symbol, sample.day());
        let newest = Revision::try_from(i64::MAX).unwrap_or_default();
        match self {
            Self::Candles => {
                for timeframe in Timeframe::ALL {
                    let range = sample.last(240 * timeframe.micros());
                    candles::range(connection, timeframe, symbol, range, 60).await?;
                }
            }
            Self::Minute => {
                candles::minute(connection, symbol, sample.minute_us).await?;
            }
            Self::Closed => {
                let candidate = |symbol: &Symbol| Candidate {
                    symbol: symbol.clone(),
                    start_us: sample.minute_us,
                    trades: 1,
                    since: newest,
                    revision: newest,
                };
                let candidates: Vec<Candidate> = sample.symbols.iter().map(candidate).collect();
                candles::compare(connection, &candidates).await?;
                tick_versions::amended_after(connection, &candidates).await?;
            }
            Self::TicksOfMinute => {
                ticks::of_minute(connection, symbol, sample.minute_us).await?;
                tick_versions::of_minute(connection, symbol, sample.minute_us).await?;
            }
            Self::Trades => {
                let hour = sample.last(Timeframe::H1.micros());
                tick_versions::list(connection, symbol, hour, None, newest, 60).await?;
            }
            Self::NewestTick => {
                ticks::latest(connection, symbol).await?;
            }
            Self::Reconcile => {
                newest_ticks::times(connection, &sample.symbols).await?;
                newest_ticks::minutes_behind(connection, symbol, day.from_us).await?;
            }
            Self::Base => {
                let base = Base {
                    symbol: symbol.clone(),
                    timeframe: Timeframe::D1,
                    start_us: day.from_us,
                    revision: newest,
                };
                bases::compute(connection, &base, 8).await?;
            }
            Self::Verify => {
                let borders = Borders::read(connection).await?;
                for timeframes in [&Timeframe::ALL[..1], &Timeframe::ALL[1..]] {
                    verify::differing_hours(connection, &borders, timeframes, None, day).await?;
                }
            }
            Self::Gaps => {
                coverage::traded_minutes(connection, symbol, day).await?;
                coverage::buckets_without_minutes(connection, symbol, day).await?;
                coverage::of_symbol(connection, symbol, day.to_us).await?;
                coverage::id_steps(connection, symbol, day).await?;
            }
            Self::Measure => {
                spans::newest_minute(connection).await?;
                dead_letters::waiting(connection).await?;
                for timeframe in &Timeframe::ALL[1..] {
                    rollups::watermark(connection, sample.edition, *timeframe).await?;
                }
            }
            Self::Status => {
                let chunks = storage::chunks(connection).await?;
                spans::spans(connection, sample.edition, &chunks).await?;
            }
            Self::Retention => {
                let kept = std::time::Duration::from_secs(30 * 24 * 3_600);
                completeness::has_uncounted_ticks(connection, sample.edition, kept).await?;
            }
            Self::DeadLetters => {
                dead_letters::list(connection, &Filter::default(), 20).await?;
            }
        }
        Ok(())
    }
}

impl Explanation {
    fn new(query: &str, statement: &str, plan: Plan) -> Self {
        Self {
            query: query.to_owned(),
            statement: statement.split_whitespace().collect::<Vec<_>>().join(" "),
            reads: plan.reads(),
            problems: plan.problems(),
            plan,
        }
    }

    /// Returns the verdict in words.
    fn verdict(&self) -> String {
        match self.problems.as_slice() {
            [] => "good".to_owned(),
            problems => format!("slow: {}", problems.join("; ")),
        }
    }

    /// Describes every node of the plan.
    fn detailed(&self) -> Result<String, std::fmt::Error> {
        let plan = &self.plan;
        let mut text = format!("{}: {}\n", self.query, self.statement);
        writeln!(
            text,
            "  {:.1} ms, and {:.1} ms for planning; {} rows, {} decompressed\n  reads {}\n  {}",
            plan.execution_ms,
            plan.planning_ms,
            plan.rows,
            plan.decompressed(),
            self.reads.join(", "),
            self.verdict()
        )?;
        for node in plan.nodes.iter().filter(|node| node.loops > 0.0) {
            let indent = "  ".repeat(node.depth + 1);
            write!(text, "{indent}{}", node.kind)?;
            for (word, name) in [("on", &node.relation), ("by", &node.index)] {
                if let Some(name) = name {
                    write!(text, " {word} {name}")?;
                }
            }
            writeln!(
                text,
                ": {:.2} ms, {:.0} rows, {:.0} discarded, {:.0} pages",
                node.own_ms, node.rows, node.discarded, node.pages
            )?;
        }
        let excluded = plan.nodes.iter().filter(|node| node.loops <= 0.0).count();
        write!(text, "  {excluded} nodes were not run")?;
        Ok(text)
    }
}

fn show_table(explanations: &[Explanation]) -> anyhow::Result<()> {
    let mut shown = table(&[
        "query",
        ">ms",
        ">planning",
        ">rows",
        ">decompressed",
        "reads",
        "verdict",
    ]);
    for explanation in explanations {
        let plan = &explanation.plan;
        shown.add_row([
            explanation.query.clone(),
            format!("{:.1}", plan.execution_ms),
            format!("{:.1}", plan.planning_ms),
            plan.rows.to_string(),
            thousands(i64::try_from(plan.decompressed())?),
            explanation.reads.join(", "),
            explanation.verdict(),
        ]);
    }
    say(shown)
}

async fn show_slow(connection: &mut AsyncPgConnection, args: &Args) -> anyhow::Result<()> {
    let found = slow_statements(connection, args.limit.into())
        .await
        .explained("reading pg_stat_statements")?;
    let statements = match found {
        SlowStatements::Missing(remedy) => anyhow::bail!("the server keeps no statistics of statements; {remedy}"),
        SlowStatements::Found(statements) => statements,
    };
    if args.json {
        return say(serde_json::to_string_pretty(&statements)?);
    }
    let mut shown = table(&[">calls", ">total ms", ">mean ms", ">rows", "statement"]);
    for statement in statements {
        let text: String = statement.query.split_whitespace().collect::<Vec<_>>().join(" ");
        shown.add_row([
            thousands(statement.calls),
            format!("{:.0}", statement.total_ms),
            format!("{:.2}", statement.mean_ms),
            thousands(statement.rows),
            text.chars().take(SHOWN).collect(),
        ]);
    }
    say(shown)
}
