//! The history in PostgreSQL with TimescaleDB: connections, schema, errors and queries.
//!
//! A query is a free async function that takes a connection, so the caller decides about pool and transaction. What
//! differs between TimescaleDB's editions is decided in [`queries::rollups`] and [`migrations`], nowhere else.

mod columns;
pub mod connection;
pub mod drift;
pub mod edition;
mod edition_move;
pub mod error;
pub mod known_versions;
pub mod migrations;
pub mod plans;
pub mod pool;
pub mod queries;
pub mod schema;
mod sqlstate;
mod tls;
