//! Errors of the database: whether to try again, to reject a row, or to report it.

use diesel::QueryResult;
use diesel::result::Error;

use super::sqlstate;

/// Consequence of a failed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server is down, busy or full, or another transaction conflicted. The caller retries with a back-off.
    Transient,
    /// A row is invalid, so no retry helps. The caller has to find the row of the batch that fails alone.
    BadRow,
    /// The schema, the rights or the configuration are wrong: no retry helps until an operator changes them.
    Permanent,
}

impl Fault {
    /// Classifies an error by its SQLSTATE; where it has none, by its kind.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::DatabaseError(_, info) => {
                sqlstate::of_message(info.message()).map_or(Self::Transient, Self::of_sqlstate)
            }
            Error::RollbackErrorOnCommit { commit_error, .. } => Self::of(commit_error),
            Error::BrokenTransactionManager | Error::RollbackTransaction => Self::Transient,
            Error::SerializationError(_) | Error::InvalidCString(_) => Self::BadRow,
            _ => Self::Permanent,
        }
    }

    /// Classifies a SQLSTATE, mostly by its class.
    pub fn of_sqlstate(code: &str) -> Self {
        match code {
            // A limit of the server's configuration (decompression, a message too long), not its load.
            "53400" => Self::Permanent,
            // Read-only: a standby, or a server whose disk is full.
            "25006" | "55006" | "55P03" | "25P02" | "25P03" | "25P04" => Self::Transient,
            _ => match code.get(..2) {
                // connection · transaction rollback · resources · operator intervention · system error · internal error
                // (for example: two sessions change the same row of the catalogue at the same time)
                Some("08" | "40" | "53" | "57" | "58" | "XX") => Self::Transient,
                // data exception · integrity constraint · program limit (an index entry too long)
                Some("22" | "23" | "54") => Self::BadRow,
                _ => Self::Permanent,
            },
        }
    }
}

/// Returns the SQLSTATE of an error that the server reported.
pub fn sqlstate(error: &Error) -> Option<&str> {
    match error {
        Error::DatabaseError(_, info) => sqlstate::of_message(info.message()),
        Error::RollbackErrorOnCommit { commit_error, .. } => sqlstate(commit_error),
        _ => None,
    }
}

/// Returns `true` if a smaller transaction may succeed: the statement took longer than `statement_timeout`, or needed
/// more locks than `max_locks_per_transaction` allows, as a row of each of thousands of chunks does.
pub fn is_too_large(error: &Error) -> bool {
    matches!(sqlstate(error), Some("57014" | "53200"))
}

/// Returns `true` if another transaction or refresh got in the way, and the same statement succeeds without it.
pub fn is_conflict(error: &Error) -> bool {
    matches!(sqlstate(error), Some("40001" | "40P01" | "55P03"))
}

/// Returns `true` if the code means that the schema, the login, the database or the rights do not fit this version.
pub(crate) fn is_set_up(code: &str) -> bool {
    matches!(
        code,
        "42P01" | "42703" | "42883" | "42P10" | "3F000" | "28P01" | "28000" | "3D000" | "42501"
    )
}

/// Returns what an operator can do about a SQLSTATE.
pub fn remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "42P01" | "42703" | "42883" | "3F000" => {
            "the schema is not the one this version needs; run `aggregator-admin migrate`, which also names what was \
             changed by hand"
        }
        "42P10" => {
            "a unique key is missing, so the schema was changed by hand; run `aggregator-admin status`, which names \
             the statement that restores it"
        }
        "28P01" => "check the password in the URL or in `password_file`",
        "28000" => "check the user, and that pg_hba.conf lets it in from here",
        "3D000" => "create the database, or name another one in `postgres.url`",
        "42501" => "grant the role what it needs; `deploy/` shows the rights of each worker",
        "53100" => "the server's disk is full; free some space or compress older chunks",
        "53200" => "the server has too few locks for this many chunks; raise max_locks_per_transaction",
        "53300" => "too many connections; lower `postgres.pool_size` or raise max_connections",
        "53400" => "a limit of the server was reached; see its message",
        "25006" => "the server takes no writes; is it a standby?",
        _ => return None,
    })
}

/// A failed statement, shown with its details and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.0))]
pub struct StatementError(pub Error);

/// Adds the failed action to the error of a statement.
pub trait Explained<T> {
    /// Converts the error to a [`StatementError`] in the context of `doing`.
    fn explained(self, doing: &str) -> anyhow::Result<T>;
}

impl<T> Explained<T> for QueryResult<T> {
    fn explained(self, doing: &str) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::from(StatementError(error)).context(doing.to_owned()))
    }
}

/// Formats the error, its details and the remedy as one line.
pub fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    if let Error::DatabaseError(_, info) = error {
        for more in [info.details(), info.hint()].into_iter().flatten() {
            text = format!("{text}: {more}");
        }
    }
    match sqlstate(error).and_then(remedy) {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel::result::DatabaseErrorKind;

    fn database(kind: DatabaseErrorKind, message: &str) -> Error {
        Error::DatabaseError(kind, Box::new(message.to_owned()))
    }

    #[test]
    fn a_code_has_one_consequence() {
        for code in [
            "08006", "40001", "40P01", "53100", "53200", "53300", "57P01", "57P03", "57014", "55P03", "25006", "58030",
            "XX000",
        ] {
            assert_eq!(Fault::of_sqlstate(code), Fault::Transient, "{code}");
        }
        for code in ["22003", "22P05", "22021", "22008", "23502", "23505", "23514", "54000"] {
            assert_eq!(Fault::of_sqlstate(code), Fault::BadRow, "{code}");
        }
        for code in ["42P01", "42703", "42501", "28P01", "3D000", "0A000", "53400", "21000"] {
            assert_eq!(Fault::of_sqlstate(code), Fault::Permanent, "{code}");
        }
    }

    #[test]
    fn an_error_without_a_code_never_reached_the_server() {
        let lost = database(DatabaseErrorKind::UnableToSendCommand, "connection closed");
        assert_eq!(Fault::of(&lost), Fault::Transient);
        assert_eq!(Fault::of(&Error::BrokenTransactionManager), Fault::Transient);
    }

    #[test]
    fn a_missing_unique_key_is_not_restored_by_a_migration() {
        let error = database(
            DatabaseErrorKind::Unknown,
            "no unique constraint matches (SQLSTATE 42P10)",
        );
        assert!(
            describe(&error).contains("run `aggregator-admin status`"),
            "{}",
            describe(&error)
        );
    }

    #[test]
    fn a_missing_table_names_the_command() {
        let error = database(
            DatabaseErrorKind::Unknown,
            "relation \"ticks\" does not exist (SQLSTATE 42P01)",
        );
        assert_eq!(Fault::of(&error), Fault::Permanent);
        assert!(
            describe(&error).contains("run `aggregator-admin migrate`"),
            "{}",
            describe(&error)
        );
    }
}
