//! Command lines of the benchmark and the soak test.

use std::process::ExitCode;

use clap::Parser;

/// Parses the options of this process. On an error and for `--help`, prints the text and returns the exit code.
pub fn parse<O: Parser>() -> Result<O, ExitCode> {
    // Two dependencies would install different providers. An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    O::try_parse().map_err(|error| {
        let _ = error.print();
        ExitCode::from(if error.use_stderr() { 64 } else { 0 })
    })
}
