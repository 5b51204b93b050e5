//! Whether a worker can do its work now, as a set of named conditions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cheap handle to the conditions that must hold for a worker to be ready; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Conditions>>,
}

type Conditions = BTreeMap<Cow<'static, str>, Result<(), String>>;

impl Readiness {
    /// Conditions that don't hold yet.
    pub fn waiting_for(conditions: impl IntoIterator<Item = &'static str>) -> Self {
        let readiness = Self::default();
        for condition in conditions {
            readiness.fail(condition, "not yet");
        }
        readiness
    }

    /// The condition holds.
    pub fn ok(&self, condition: impl Into<Cow<'static, str>>) {
        self.lock().insert(condition.into(), Ok(()));
    }

    /// The condition doesn't hold, for a reason that anybody may read on `/readyz`.
    pub fn fail(&self, condition: impl Into<Cow<'static, str>>, reason: impl Display) {
        self.lock().insert(condition.into(), Err(reason.to_string()));
    }

    /// The condition doesn't matter any more.
    pub fn forget(&self, condition: &str) {
        self.lock().remove(condition);
    }

    /// What doesn't hold, as `condition: reason`; empty if the worker is ready.
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
