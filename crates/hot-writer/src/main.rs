//! The program hot-writer; the worker is the library of the same name.

use std::process::ExitCode;

use hot_writer::config::Config;
use hot_writer::run;
use storage_core::{cli, program};

#[derive(clap::Subcommand)]
enum Command {
    /// Runs the worker until SIGTERM
    Run,
}

fn main() -> ExitCode {
    cli::main(program!(), async |Command::Run, config: Config| run::run(config).await)
}
