//! The pipeline under fire: three hot-writers, two warm-syncers and two aggregator-admins on stores of their own, a load with late,
//! duplicate and bad ticks, and random faults from a seed; at the end the history must equal an oracle that was computed apart.
//!
//! `scripts/soak` installs what it needs and runs it.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a soak that can't go on has failed, and its output is its result"
)]

mod handover;
mod inflict;
mod run;
mod schedule;
mod summary;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use futures::FutureExt;
use storage_core::postgres::edition::Edition;

use crate::run::Soak;
use crate::schedule::Server;

/// Runs the pipeline under random faults and compares what comes of it with an oracle
#[derive(Clone, Debug, Parser)]
#[command(name = "soak", version)]
struct Options {
    /// For how many minutes ticks are sent and faults made
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Seed of the load and of the faults; by the clock where not given
    #[arg(long)]
    seed: Option<u64>,
    /// How many faults; 10 a minute where not given
    #[arg(long)]
    faults: Option<u32>,
    /// TimescaleDB edition: `apache` is a native server that can be killed, `community` an embedded one
    #[arg(long, default_value = "apache")]
    edition: String,
    /// Ticks a second
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Keep the workers' logs and Redis's files also when all is right
    #[arg(long)]
    keep: bool,
}

/// What is run; it all follows from the command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    pub(crate) faults: u32,
    pub(crate) rate: u32,
    pub(crate) edition: Edition,
}

impl Task {
    fn of(options: &Options) -> Result<Self, String> {
        let edition = match options.edition.as_str() {
            "apache" => Edition::Apache,
            "community" => Edition::Community,
            other => return Err(format!("--edition is {other}, not apache or community")),
        };
        Ok(Self {
            seed: options.seed.unwrap_or_else(by_the_clock),
            length: Duration::from_secs(u64::from(options.minutes) * 60),
            faults: options.faults.unwrap_or(options.minutes * 10),
            rate: options.rate,
            edition,
        })
    }

    /// The database server. A disk that can be full is lost when its server is killed, so a seed has one or the other.
    pub(crate) fn server(&self) -> Server {
        match self.edition {
            Edition::Community => Server::Embedded,
            Edition::Apache if self.seed.is_multiple_of(2) => Server::NativeOnSmallDisk,
            Edition::Apache => Server::Native,
        }
    }

    /// The arguments that repeat it.
    fn again(&self) -> String {
        format!(
            "--minutes {} --seed {} --faults {} --rate {} --edition {}",
            self.length.as_secs() / 60,
            self.seed,
            self.faults,
            self.rate,
            self.edition
        )
    }
}

fn by_the_clock() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970");
    u64::from(now.subsec_nanos()) % 1_000_000
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(64)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let task = match Task::of(&options) {
        Ok(task) => task,
        Err(reason) => {
            eprintln!("soak: {reason}");
            return ExitCode::from(64);
        }
    };
    // The library that two others would choose between otherwise; an error says that one was chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!("seed {}", task.seed);

    let mut soak = Soak::start(task).await;
    let outcome = AssertUnwindSafe(soak.run()).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Err("the soak itself failed, see above".to_owned()));
    let summary = soak.summary().await;
    println!("\n{summary}");
    let code = match outcome {
        Ok(()) => {
            if options.keep {
                println!("logs and Redis's files are in {}", soak.keep_evidence().display());
            }
            println!("\npassed: every candle, every sum and every dead letter is as it must be");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            let folder = soak.keep_evidence();
            println!("\nFAILED: {reason}");
            println!(
                "logs and Redis's files are in {}; again: scripts/soak {}",
                folder.display(),
                task.again()
            );
            ExitCode::FAILURE
        }
    };
    soak.close().await;
    code
}
