//! Log lines on stderr, chosen by `RUST_LOG`.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::Misconfigured;
use crate::config::telemetry::LogFormat;
use crate::terminal::wants_colour;

/// Starts logging. Without `RUST_LOG`, `default_level` and above are logged: `INFO` for a worker, `WARN` for a command
/// that prints a result.
pub fn init(format: LogFormat, default_level: LevelFilter) -> Result<(), Misconfigured> {
    let filter = filter(&std::env::var("RUST_LOG").unwrap_or_default(), default_level)?;
    let stderr = std::io::stderr;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && wants_colour());
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| Misconfigured::new(format!("cannot start logging: {error}")))
}

fn filter(rust_log: &str, default_level: LevelFilter) -> Result<EnvFilter, Misconfigured> {
    EnvFilter::builder()
        .with_default_directive(default_level.into())
        .parse(rust_log)
        .map_err(|error| Misconfigured::new(format!("RUST_LOG={rust_log}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_log_overrides_the_default_level() {
        assert_eq!(filter("", LevelFilter::WARN).unwrap().to_string(), "warn");
        assert_eq!(filter("debug", LevelFilter::WARN).unwrap().to_string(), "debug");
        let error = filter("a=b=c", LevelFilter::WARN).unwrap_err().to_string();
        assert!(error.starts_with("RUST_LOG=a=b=c: "), "{error}");
    }
}
