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
}

/// What the median ratio must be, or our own median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// In the figure's own unit, whatever the limit is.
    OursAtMost(f64),
    /// Nothing in particular.
    Reported,
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

impl Figure {
    /// One without samples yet.
    pub(crate) fn new(
        name: &'static str,
        explained: &'static str,
        unit: &'static str,
        against: &'static str,
        reach: Reach,
    ) -> Self {
        Self {
            name,
            explained,
            unit,
            ours: Samples::default(),
            against,
            limit: Samples::default(),
            ratio: Samples::default(),
            reach,
            note: None,
        }
    }

    /// Adds a round, whose ratio is ours by the limit.
    pub(crate) fn push(&mut self, ours: f64, limit: f64) {
        self.add(ours, limit, ours / limit);
    }

    /// Adds a round, whose ratio is the limit by ours: how many times faster or smaller we are.
    pub(crate) fn push_inverse(&mut self, ours: f64, limit: f64) {
        self.add(ours, limit, limit / ours);
    }

    fn add(&mut self, ours: f64, limit: f64, ratio: f64) {
        self.ours.0.push(ours);
        self.limit.0.push(limit);
        self.ratio.0.push(ratio);
    }

    /// Whether it is as it must be; `None` where nothing must be, or nothing was measured.
    pub(crate) fn reached(&self) -> Option<bool> {
        let (ours, ratio) = (self.ours.median(), self.ratio.median());
        match self.reach {
            Reach::AtLeast(least) => (!ratio.is_nan()).then_some(ratio >= least),
            Reach::AtMost(most) => (!ratio.is_nan()).then_some(ratio <= most),
            Reach::OursAtMost(most) => (!ours.is_nan()).then_some(ours <= most),
            Reach::Reported => None,
        }
    }
}
