//! Candles as people look at them: history and hot view as one series, and as a chart.

pub(crate) mod chart;
pub(crate) mod series;
