//! The market's vocabulary: types that can't hold an illegal value, and pure rules on them.
//!
//! Nothing here reads a clock or opens a connection, so the workers, the tests and the verification
//! commands all reach the same verdict on the same entry.

pub mod candle;
pub mod database_identity;
pub mod decimal;
pub mod entry;
pub mod lots;
pub mod partition;
pub mod rejection;
pub mod signal;
pub mod stream_id;
pub mod symbol;
pub mod tick;
pub mod tick_rules;
pub mod time;
pub mod timeframe;
