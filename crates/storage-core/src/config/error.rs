use std::fmt;

/// The configuration, or the way a command was called, is wrong: no retry helps, an operator must
/// change something. A command that ends with it exits 64.
///
/// Anywhere in an error's chain it has this meaning, so that a worker may add context. An enum that
/// carries it uses `#[source]`, as `#[error(transparent)]` hides it from the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misconfigured(String);

impl Misconfigured {
    /// What is wrong and what to do, in lower case and without a full stop. Never a secret's value.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Whether `error` or anything that caused it is a [`Misconfigured`].
    pub fn caused(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<Self>())
    }
}

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misconfigured {}
