//! A figure: samples of us and of what we are measured against, and what their ratio must reach.

use serde::Serialize;

/// What was measured, round by round.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The one in the middle; of an even number the mean of two. NaN where there is none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = sorted.len() / 2;
        match (sorted.len() % 2, sorted.get(upper)) {
            (0, Some(value)) => f64::midpoint(sorted[upper - 1], *value),
            (_, Some(value)) => *value,
            (_, None) => f64::NAN,
        }
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// These by those, round by round.
    pub(crate) fn per(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(one, other)| one / other).collect())
    }
}

/// What the median ratio must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing in particular.
    Reported,
}

impl Reach {
    /// Whether `ratio` is as it must be; `None` where nothing must be, or nothing was measured.
    pub(crate) fn reached_by(self, ratio: f64) -> Option<bool> {
        match self {
            _ if ratio.is_nan() => None,
            Self::AtLeast(least) => Some(ratio >= least),
            Self::AtMost(most) => Some(ratio <= most),
            Self::Reported => None,
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// What is measured, and how.
    pub(crate) explained: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    /// What it is measured against.
    pub(crate) against: &'static str,
    pub(crate) limit: Samples,
    /// Round by round: ours by the limit, unless `explained` says otherwise.
    pub(crate) ratio: Samples,
    pub(crate) reach: Reach,
    /// What a reader must know about these samples, such as why there is no limit.
    pub(crate) note: Option<String>,
}
