//! Benchmarks of the pipeline, each next to a limit of the same machine or to common tools, measured in the same run.
//!
//! `scripts/bench` makes the release build and installs what it needs. Each figure is described where it is defined.
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
use std::time::Instant;

use acceptance::command_line::parse;
use clap::Parser;

use crate::bench::{Bench, Measurement};
use crate::report::Report;

/// Measures the pipeline next to the raw limit of this machine, and prints tables
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", version)]
struct Options {
    /// Measure fewer figures and rounds with less load: under three minutes in total
    #[arg(long)]
    quick: bool,
    /// Run the measurements whose names begin with NAME; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print the names of the measurements
    #[arg(long)]
    list: bool,
    /// Number of rounds, which each measure both sides of a figure [default: 3, or 1 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seed of the load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Trade all symbols equally often, the worst case, instead of by Zipf's law
    #[arg(long)]
    uniform: bool,
    /// Write every sample and the description of the machine to FILE
    #[arg(long, value_name = "FILE", default_value = ".dev/bench/bench.json")]
    json: PathBuf,
    /// Write the plot of the measurement `linear` to FILE
    #[arg(long, value_name = "FILE", default_value = ".dev/bench/linear.svg")]
    svg: PathBuf,
    /// Print the tables as Markdown
    #[arg(long)]
    markdown: bool,
}

fn measurements() -> impl Iterator<Item = &'static Measurement> {
    hot::MEASUREMENTS.iter().chain(warm::MEASUREMENTS)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options: Options = match parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    if options.list {
        measurements().for_each(|measurement| println!("{}", measurement.name));
        return ExitCode::SUCCESS;
    }
    let selects = |only: &String, name: &str| name.starts_with(only.as_str());
    let selected: Vec<&Measurement> = measurements()
        .filter(|measurement| {
            options.only.is_empty() || options.only.iter().any(|only| selects(only, measurement.name))
        })
        .collect();
    if selected.is_empty() {
        eprintln!(
            "bench: no measurement begins with {:?}; `scripts/bench --list` prints their names",
            options.only
        );
        return ExitCode::from(64);
    }
    match run(&options, &selected).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the measurements and prints the tables. Returns `false` if one failed.
async fn run(options: &Options, measurements: &[&Measurement]) -> anyhow::Result<bool> {
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
    for measurement in measurements {
        eprintln!("bench: {}", measurement.name);
        let begun = Instant::now();
        match (measurement.run)(&bench).await {
            Ok(figures) => {
                eprintln!("bench: {} took {:.0?}", measurement.name, begun.elapsed());
                report.add(measurement.section, figures);
            }
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
            report.tables()
        }
    );
    Ok(complete)
}
