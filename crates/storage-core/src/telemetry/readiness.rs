//! Readiness of a worker: a set of named conditions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Handle to the conditions of a ready worker. Cheap to clone; clones share the conditions.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Conditions>>,
}

type Conditions = BTreeMap<Cow<'static, str>, Result<(), String>>;

impl Readiness {
    /// Creates conditions that do not hold yet.
    pub fn waiting_for(conditions: impl IntoIterator<Item = &'static str>) -> Self {
        let readiness = Self::default();
        for condition in conditions {
            readiness.fail(condition, "not yet");
        }
        readiness
    }

    /// Sets the condition.
    pub fn ok(&self, condition: impl Into<Cow<'static, str>>) {
        self.lock().insert(condition.into(), Ok(()));
    }

    /// Clears the condition; `/readyz` shows the reason to every client.
    pub fn fail(&self, condition: impl Into<Cow<'static, str>>, reason: impl Display) {
        self.lock().insert(condition.into(), Err(reason.to_string()));
    }

    /// Removes the condition.
    pub fn forget(&self, condition: &str) {
        self.lock().remove(condition);
    }

    /// Returns the conditions that do not hold, as `condition: reason`; empty if the worker is ready.
    pub fn problems(&self) -> Vec<String> {
        self.lock()
            .iter()
            .filter_map(|(condition, state)| state.as_ref().err().map(|reason| format!("{condition}: {reason}")))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
