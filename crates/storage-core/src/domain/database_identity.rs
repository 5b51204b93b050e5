//! Identity of the database that holds the history.

use std::fmt;

/// `<HISTORY>@<SERVER>/<DATABASE>`: the UUID of the history, which a dump contains, the system identifier of the
/// server, and the OID of the database. A copy of a database has the same history but another server or OID; a server
/// restored from a base backup has the same identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseIdentity(String);

impl DatabaseIdentity {
    /// Creates an identity from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns `true` if both databases hold the same history.
    pub fn has_history_of(&self, other: &Self) -> bool {
        let history = |identity: &Self| identity.0.split('@').next().map(ToOwned::to_owned);
        history(self) == history(other)
    }
}

impl fmt::Display for DatabaseIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
