//! The identity of the database that holds the history.

use std::fmt;

/// `<HISTORY>@<SERVER>/<DATABASE>`: the UUID of the history, which a dump carries along, the system identifier of the server that holds
/// it, and the OID of the database there. A copy of a database has the same history and another place; a server that was restored
/// from a base backup has all three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseIdentity(String);

impl DatabaseIdentity {
    /// The identity of which this is the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns `true` if both hold the same history, in whatever place.
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
