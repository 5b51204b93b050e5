//! Classes of errors: whether a retry helps, and the exit code of a program that ends with the error.
//!
//! - 0, done: also `--help`, `--version`, a worker that ends after SIGTERM or SIGINT, and a command whose reader went
//!   away.
//! - 1, failed: an error of the class [`Permanent`](ErrorClass::Permanent), or [`Transient`](ErrorClass::Transient) for
//!   longer than a command waits; a check that found a difference; a shutdown that was aborted.
//! - 64, wrong usage, configuration or set-up: an error of the class [`Misconfigured`](ErrorClass::Misconfigured), such
//!   as an unknown flag or key, a value that is not allowed, a password file that can't be read, a port in use, a
//!   refused password or right, a missing database, a schema or functions of another version, stores that do not belong
//!   together, or settings of Redis that lose data.
//!
//! A worker that starts waits while the error is transient: a store is down, or its host name does not resolve yet. A
//! worker that runs retries every error of its stores, because passwords are rotated and schemas migrated while it
//! runs.

use diesel::result::Error as DieselError;
use redis::{ErrorKind, RedisError};

use crate::config::Misconfigured;
use crate::postgres::connection::ConnectError;
use crate::postgres::error::{Fault, StatementError, is_set_up, sqlstate};
use crate::postgres::migrations::MigrationError;
use crate::redis::connection::is_tls_failure;
use crate::redis::functions::FunctionsError;
use crate::service::Stopped;

/// Exit code of a command that succeeded.
pub const DONE: u8 = 0;
/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of wrong usage, configuration or set-up (`EX_USAGE` of sysexits.h).
pub const MISUSED: u8 = 64;

/// Class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The command line, the configuration or the set-up of a store is wrong. No retry helps until an operator changes
    /// it.
    Misconfigured,
    /// No retry helps, and the set-up is not to blame.
    Permanent,
    /// A retry may help: a store is down, busy, full or failing over.
    Transient,
}

impl ErrorClass {
    /// Classifies an error by the first cause in its chain that has a class. An error of another origin is permanent.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(of_cause).unwrap_or(Self::Permanent)
    }
}

/// Returns the exit code of a command that ended with `result`.
pub fn exit_code(result: &anyhow::Result<()>) -> u8 {
    match result {
        Err(error) if Stopped::caused(error) => DONE,
        Err(error) if ErrorClass::of(error) == ErrorClass::Misconfigured => MISUSED,
        Err(_) => FAILED,
        Ok(()) => DONE,
    }
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<ErrorClass> {
    if cause.is::<Misconfigured>() {
        Some(ErrorClass::Misconfigured)
    } else if let Some(error) = cause.downcast_ref() {
        Some(of_redis(error))
    } else if let Some(error) = cause.downcast_ref() {
        Some(match error {
            FunctionsError::Redis(error) => of_redis(error),
            FunctionsError::Missing | FunctionsError::Old { .. } => ErrorClass::Misconfigured,
        })
    } else if let Some(error) = cause.downcast_ref::<ConnectError>() {
        Some(match error.fault {
            Fault::Transient => ErrorClass::Transient,
            Fault::Permanent | Fault::BadRow => ErrorClass::Misconfigured,
        })
    } else if let Some(error) = cause.downcast_ref() {
        Some(match error {
            MigrationError::Database(error) => of_statement(error),
            MigrationError::Failed { is_transient: true, .. } => ErrorClass::Transient,
            MigrationError::Failed { .. } => ErrorClass::Permanent,
            MigrationError::NoTimescale { .. }
            | MigrationError::Behind { .. }
            | MigrationError::Unknown { .. }
            | MigrationError::NotFound { .. }
            | MigrationError::Unconfirmed { .. } => ErrorClass::Misconfigured,
        })
    } else if let Some(StatementError(error)) = cause.downcast_ref() {
        Some(of_statement(error))
    } else {
        cause.downcast_ref().map(of_statement)
    }
}

fn of_statement(error: &DieselError) -> ErrorClass {
    match Fault::of(error) {
        Fault::Transient => ErrorClass::Transient,
        _ if sqlstate(error).is_some_and(is_set_up) => ErrorClass::Misconfigured,
        Fault::BadRow | Fault::Permanent => ErrorClass::Permanent,
    }
}

fn of_redis(error: &RedisError) -> ErrorClass {
    match error.code() {
        Some("WRONGPASS" | "NOAUTH" | "NOPERM") => ErrorClass::Misconfigured,
        Some(
            "LOADING" | "BUSY" | "OOM" | "EXECABORT" | "MISCONF" | "TRYAGAIN" | "CLUSTERDOWN" | "MOVED" | "ASK"
            | "MASTERDOWN" | "READONLY" | "NOREPLICAS" | "NOGROUP",
        ) => ErrorClass::Transient,
        Some(_) => ErrorClass::Permanent,
        None if is_tls_failure(error) => ErrorClass::Misconfigured,
        None => match error.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => ErrorClass::Misconfigured,
            ErrorKind::ClusterConnectionNotFound => ErrorClass::Transient,
            _ if error.is_io_error()
                || error.is_timeout()
                || error.is_connection_dropped()
                || error.is_connection_refusal() =>
            {
                ErrorClass::Transient
            }
            _ => ErrorClass::Permanent,
        },
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use diesel::result::DatabaseErrorKind;

    use super::*;

    fn statement(message: &str) -> DieselError {
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(message.to_owned()))
    }

    fn class(error: impl Into<anyhow::Error>) -> ErrorClass {
        ErrorClass::of(&error.into().context("starting"))
    }

    #[test]
    fn what_an_operator_must_change_is_misconfigured() {
        assert_eq!(class(Misconfigured::new("wrong partitions")), ErrorClass::Misconfigured);
        assert_eq!(class(FunctionsError::Missing), ErrorClass::Misconfigured);
        assert_eq!(class(MigrationError::Behind { behind: 1 }), ErrorClass::Misconfigured);
        assert_eq!(
            class(RedisError::from((ErrorKind::AuthenticationFailed, "wrong password"))),
            ErrorClass::Misconfigured
        );
        for code in ["42P01", "42501", "28P01", "3D000"] {
            let error = statement(&format!("no (SQLSTATE {code})"));
            assert_eq!(class(StatementError(error)), ErrorClass::Misconfigured, "{code}");
        }
    }

    #[test]
    fn a_store_that_is_away_is_transient() {
        assert_eq!(
            class(RedisError::from(std::io::Error::other("refused"))),
            ErrorClass::Transient
        );
        assert_eq!(
            class(FunctionsError::Redis(std::io::Error::other("refused").into())),
            ErrorClass::Transient
        );
        assert_eq!(
            class(statement("no space left (SQLSTATE 53100)")),
            ErrorClass::Transient
        );
        assert_eq!(
            class(MigrationError::from(statement("starting up (SQLSTATE 57P03)"))),
            ErrorClass::Transient
        );
        let failed = |is_transient| MigrationError::Failed {
            migration: "000700_rollups".to_owned(),
            reason: "deadlock detected".to_owned(),
            is_transient,
        };
        assert_eq!(class(failed(true)), ErrorClass::Transient);
        assert_eq!(class(failed(false)), ErrorClass::Permanent);
    }

    #[test]
    fn any_other_error_is_permanent() {
        assert_eq!(class(anyhow!("2 candles differ")), ErrorClass::Permanent);
        assert_eq!(class(statement("out of range (SQLSTATE 22003)")), ErrorClass::Permanent);
        assert_eq!(
            class(RedisError::from((ErrorKind::UnexpectedReturnType, "no number"))),
            ErrorClass::Permanent
        );
    }

    #[test]
    fn the_exit_code_follows_the_class() {
        let failed = |error: anyhow::Error| exit_code(&Err(error).context("starting"));
        assert_eq!(exit_code(&Ok(())), DONE);
        assert_eq!(failed(Stopped.into()), DONE);
        assert_eq!(failed(anyhow!("failed")), FAILED);
        assert_eq!(
            failed(RedisError::from(std::io::Error::other("refused")).into()),
            FAILED
        );
        assert_eq!(failed(Misconfigured::new("wrong partitions").into()), MISUSED);
    }
}
