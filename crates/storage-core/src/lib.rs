//! storage-core
pub mod domain;
