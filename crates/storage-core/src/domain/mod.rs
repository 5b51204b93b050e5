//! Types of market data that can't hold an invalid value, and pure rules on them.
//!
//! Nothing here reads a clock or opens a connection, so that workers, tests and verification commands always get the
//! same result for the same entry.

pub mod amendment;
pub mod candle;
pub mod database_identity;
pub mod decimal;
pub mod entry;
pub mod event_time;
pub mod heartbeat;
pub mod lots;
pub mod partition;
pub mod prices;
pub mod rejection;
pub mod signal;
pub mod stream_id;
pub mod symbol;
pub mod tick;
pub mod tick_event;
pub mod tick_rules;
pub mod time;
pub mod timeframe;
pub mod trade_id;
pub mod trade_identity;
