//! Figures: samples of this project and of a baseline, and the target of their ratio.

use serde::Serialize;

/// Measured values, one for each round.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// Returns the median; NaN if there are no samples.
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

/// Target of the median ratio, or of our own median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Limit of our own median, in the figure's unit.
    OursAtMost(f64),
    /// No target.
    None,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) description: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    /// Name of the baseline.
    pub(crate) compared_with: &'static str,
    pub(crate) theirs: Samples,
    /// Ours divided by theirs in each round, or the inverse where the description says so.
    pub(crate) ratio: Samples,
    pub(crate) target: Target,
    /// Remark about these samples, such as the reason for a missing baseline.
    pub(crate) note: Option<String>,
}

impl Figure {
    /// Creates a figure without samples.
    pub(crate) fn new(
        name: impl Into<String>,
        description: &'static str,
        unit: &'static str,
        compared_with: &'static str,
        target: Target,
    ) -> Self {
        Self {
            name: name.into(),
            description,
            unit,
            ours: Samples::default(),
            compared_with,
            theirs: Samples::default(),
            ratio: Samples::default(),
            target,
            note: None,
        }
    }

    /// Adds a round whose ratio is ours divided by theirs.
    pub(crate) fn push(&mut self, ours: f64, theirs: f64) {
        self.add(ours, theirs, ours / theirs);
    }

    /// Adds a round whose ratio is theirs divided by ours: how many times faster or smaller ours is.
    pub(crate) fn push_inverse(&mut self, ours: f64, theirs: f64) {
        self.add(ours, theirs, theirs / ours);
    }

    fn add(&mut self, ours: f64, theirs: f64, ratio: f64) {
        self.ours.0.push(ours);
        self.theirs.0.push(theirs);
        self.ratio.0.push(ratio);
    }

    /// Returns `true` if the target is met; `None` if there is no target or no sample.
    pub(crate) fn meets_target(&self) -> Option<bool> {
        let (ours, ratio) = (self.ours.median(), self.ratio.median());
        match self.target {
            Target::AtLeast(least) => (!ratio.is_nan()).then_some(ratio >= least),
            Target::AtMost(most) => (!ratio.is_nan()).then_some(ratio <= most),
            Target::OursAtMost(most) => (!ours.is_nan()).then_some(ours <= most),
            Target::None => None,
        }
    }
}
