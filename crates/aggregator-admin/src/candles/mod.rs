//! Candles for an operator: history and hot view as one series, and as a chart.

pub(crate) mod chart;
pub(crate) mod hot;
pub(crate) mod series;
