//! Command line and parameters of a soak.

use std::time::{Duration, SystemTime};

use clap::Parser;
use storage_core::postgres::edition::Edition;

use crate::schedule::Server;

/// Runs the pipeline under random faults and compares the history with an oracle
#[derive(Clone, Debug, Parser)]
#[command(name = "soak", version)]
pub(crate) struct Options {
    /// Minutes of load and faults
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Seed of the load and of the faults [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Number of faults [default: 10 per minute]
    #[arg(long)]
    faults: Option<u32>,
    /// TimescaleDB edition: `apache` on a native server that can be killed, `community` on an embedded server
    #[arg(long, default_value = "apache")]
    edition: String,
    /// Ticks per second
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Keep the workers' logs and Redis's files also after a success
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Parameters of a soak, from the command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    pub(crate) faults: u32,
    pub(crate) rate: u32,
    pub(crate) edition: Edition,
}

impl Parameters {
    pub(crate) fn of(options: &Options) -> Result<Self, String> {
        let edition = match options.edition.as_str() {
            "apache" => Edition::Apache,
            "community" => Edition::Community,
            other => return Err(format!("--edition is {other}; use apache or community")),
        };
        Ok(Self {
            seed: options.seed.unwrap_or_else(random_seed),
            length: Duration::from_secs(u64::from(options.minutes) * 60),
            faults: options.faults.unwrap_or(options.minutes * 10),
            rate: options.rate,
            edition,
        })
    }

    /// Returns the kind of database server. A small disk is lost when its server is killed, so the seed selects either
    /// the full disk or the kill.
    pub(crate) fn server(&self) -> Server {
        match self.edition {
            Edition::Community => Server::Embedded,
            Edition::Apache if self.seed.is_multiple_of(2) => Server::NativeOnSmallDisk,
            Edition::Apache => Server::Native,
        }
    }

    /// Returns the arguments that repeat this soak.
    pub(crate) fn arguments(&self) -> String {
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

fn random_seed() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970");
    u64::from(now.subsec_nanos()) % 1_000_000
}
