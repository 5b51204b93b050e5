//! backup-runner: backs up both stores to a folder, on a schedule or on demand, and restores them.
//!
//! Redis is copied as an RDB over the network; PostgreSQL as a `pg_dump` that TimescaleDB can restore, or as a base
//! backup of the server with a WAL archive for point-in-time recovery. A backup counts once its manifest is written.

mod announce;
mod cli;
mod commands;
mod config;
mod content;
mod destination;
mod draft;
mod execute;
mod manifest;
mod metrics;
mod postgres;
mod prune;
mod redis;
mod restore;
mod retention;
mod run;
mod schedule;
mod tool;
mod verify;

use std::process::ExitCode;

use storage_core::program;

fn main() -> ExitCode {
    destination::restrict_file_permissions();
    storage_core::cli::main(program!(), commands::dispatch)
}
