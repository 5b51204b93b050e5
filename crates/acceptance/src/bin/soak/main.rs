//! Soak test: three hot-writers, two warm-syncers and two aggregator-admins on dedicated stores, a load with late,
//! duplicate and invalid ticks, and random faults from a seed. At the end, the history must equal an oracle that is
//! computed independently.
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
mod inject;
mod parameters;
mod run;
mod schedule;
mod summary;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use acceptance::command_line::parse;
use futures::FutureExt;

use crate::parameters::{Options, Parameters};
use crate::run::Soak;

#[tokio::main]
async fn main() -> ExitCode {
    let options: Options = match parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let parameters = match Parameters::of(&options) {
        Ok(parameters) => parameters,
        Err(reason) => {
            eprintln!("soak: {reason}");
            return ExitCode::from(64);
        }
    };
    println!("seed {}", parameters.seed);

    let mut soak = Soak::start(parameters).await;
    let outcome = AssertUnwindSafe(soak.run()).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Err("the soak panicked; the message is above".to_owned()));
    let summary = soak.summary().await;
    println!("\n{summary}");
    let code = match outcome {
        Ok(()) => {
            if options.keep {
                println!("logs and Redis's files are in {}", soak.keep_evidence().display());
            }
            println!("\npassed: every candle, sum and dead letter equals the oracle's");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            let folder = soak.keep_evidence();
            println!("\nFAILED: {reason}");
            println!(
                "logs and Redis's files are in {}; repeat with `scripts/soak {}`",
                folder.display(),
                parameters.arguments()
            );
            ExitCode::FAILURE
        }
    };
    soak.close().await;
    code
}
