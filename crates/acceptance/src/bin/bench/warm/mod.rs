//! The database-side figures: warm-syncer, the rollups, and what history costs to read and to keep.

pub(crate) mod compression;
mod drain;
mod limit;
mod load;
mod python;
pub(crate) mod rollups;
mod stores;
pub(crate) mod syncer;

use crate::figure::{Figure, Reach};

/// A figure without samples yet.
fn figure(
    name: &'static str,
    explained: &'static str,
    unit: &'static str,
    against: &'static str,
    reach: Reach,
) -> Figure {
    Figure {
        name,
        explained,
        unit,
        ours: Vec::new(),
        against,
        limit: Vec::new(),
        ratio: Vec::new(),
        reach,
    }
}

impl Figure {
    /// Adds a round, whose ratio is ours to the limit.
    fn push(&mut self, ours: f64, limit: f64) {
        self.add(ours, limit, ours / limit);
    }

    /// Adds a round, whose ratio is the limit to ours: how many times faster or smaller we are.
    fn push_inverse(&mut self, ours: f64, limit: f64) {
        self.add(ours, limit, limit / ours);
    }

    fn add(&mut self, ours: f64, limit: f64, ratio: f64) {
        self.ours.push(ours);
        self.limit.push(limit);
        self.ratio.push(ratio);
    }
}
