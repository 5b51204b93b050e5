//! How fast the pipeline is, beside what the same machine can do at most in the same run, and beside what people use today.
//!
//! `scripts/bench` builds it for release and installs what it needs. Each figure is explained where it is defined.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench that can't go on has failed, its output is its result, and its numbers are small"
)]

mod bench;
mod figure;
mod hot;
mod machine;
mod report;
mod warm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::bench::{Bench, Measurement};
use crate::report::Report;

/// Measures the pipeline beside the raw limit of this machine, and prints one table
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", version)]
struct Options {
    /// Fewer ticks, candles and rounds: under three minutes altogether
    #[arg(long)]
    quick: bool,
    /// Only the measurements whose names begin so; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print the names of the measurements
    #[arg(long)]
    list: bool,
    /// How often each side of a figure is measured; 3, or 1 with --quick, where not given
    #[arg(long)]
    rounds: Option<usize>,
    /// Seed of the load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Trade all symbols alike, which is the hardest; by Zipf's law where not given
    #[arg(long)]
    uniform: bool,
    /// Where every sample and the description of the machine go
    #[arg(long, value_name = "FILE", default_value = ".dev/bench/bench.json")]
    json: PathBuf,
    /// Where the plot of the measurement `linear` goes
    #[arg(long, value_name = "FILE", default_value = ".dev/bench/linear.svg")]
    svg: PathBuf,
    /// Print the table as markdown
    #[arg(long)]
    markdown: bool,
}

fn measurements() -> impl Iterator<Item = &'static Measurement> {
    hot::MEASUREMENTS.iter().chain(warm::MEASUREMENTS)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    if options.list {
        measurements().for_each(|measurement| println!("{}", measurement.name));
        return ExitCode::SUCCESS;
    }
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.starts_with(only.as_str()));
    let chosen: Vec<&Measurement> = measurements().filter(|measurement| wanted(measurement.name)).collect();
    if chosen.is_empty() {
        eprintln!(
            "bench: no measurement is called {:?}; --list shows their names",
            options.only
        );
        return ExitCode::from(64);
    }
    // The library that two others would choose between otherwise; an error says that one was chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();

    match run(&options, &chosen).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was chosen and shows it. Says whether all of it could be measured.
async fn run(options: &Options, chosen: &[&Measurement]) -> anyhow::Result<bool> {
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 }).max(1);
    let bench = Bench::new(
        options.quick,
        rounds,
        options.seed,
        options.uniform,
        options.svg.clone(),
    )?;
    let mut report = Report::new(&bench).await?;
    let mut complete = true;
    for measurement in chosen {
        eprintln!("bench: {}", measurement.name);
        match (measurement.run)(&bench).await {
            Ok(figures) => report.figures.extend(figures),
            Err(error) => {
                eprintln!("bench: {} failed: {error:#}", measurement.name);
                complete = false;
            }
        }
        report.write(&options.json)?;
    }
    println!(
        "{}",
        if options.markdown {
            report.markdown()
        } else {
            report.table()
        }
    );
    Ok(complete)
}
