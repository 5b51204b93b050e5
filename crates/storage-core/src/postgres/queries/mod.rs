//! All SQL except the migrations, with one module per family of tables.

pub mod as_of;
pub mod backup;
pub mod bases;
pub mod candles;
pub mod completeness;
pub mod coverage;
pub mod dead_letters;
pub mod hypertables;
pub mod identity;
mod maintenance;
pub mod newest_ticks;
pub mod policies;
pub mod positions;
pub mod rollups;
pub mod signals;
pub mod spans;
pub mod storage;
pub mod symbols;
pub mod tick_versions;
pub mod ticks;
pub mod trades;
pub mod verified;
pub mod verify;
