/// The command line, the configuration or the set-up of a store is wrong. No retry helps until an operator changes it.
///
/// A program exits 64 if its error has this cause anywhere in the chain. An enum that carries it uses `#[source]`,
/// because `#[error(transparent)]` hides it from the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(String);

impl Misconfigured {
    /// Creates the error. The message says what is wrong and what to do, and never holds a secret.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Returns `true` if `error` or one of its causes is a [`Misconfigured`].
    pub fn caused(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<Self>())
    }
}
