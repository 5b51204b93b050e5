//! Configuration: one file per section, and [`layers`], which merges defaults, file, environment and flags in this
//! order and refuses unknown keys.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod flags;
pub mod layers;
pub mod postgres;
pub mod redis;
pub mod redis_servers;
pub mod secret_url;
pub mod service;
pub mod stream;
pub mod telemetry;

mod error;
mod password_file;
mod zero;

pub use error::Misconfigured;

/// The configuration of a program: a struct of sections, with `#[serde(deny_unknown_fields)]`.
///
/// Its `Default` holds every key that exists, so every field is serialized (no `skip_serializing_if`), and no default
/// is a secret.
pub trait Configuration: DeserializeOwned + Serialize + Default {
    /// Sections of other programs, which the same file may hold.
    const FOREIGN_SECTIONS: &'static [&'static str] = &[];
    /// Keys of the program's own section that may be zero; the field's comment says what zero means.
    const ZERO_ALLOWED: &'static [&'static str] = &[];
    /// Keys of shared sections with another default in this program, such as the port of its metrics.
    const DEFAULTS: &'static [(&'static str, &'static str)] = &[];
    /// Flags of this program that set a key, in addition to those of the shared sections.
    const FLAGS: &'static [KeyFlag] = &[];
    /// Command and subcommand whose `--set` also sets fields of entries: a name without a dot is that of a field.
    const FIELDS_COMMAND: Option<[&'static str; 2]> = None;
}

/// A flag that sets one key.
#[derive(Debug, Clone, Copy)]
pub struct KeyFlag {
    /// Name without the dashes.
    pub name: &'static str,
    /// `section.key`.
    pub key: &'static str,
    /// Placeholder of the value in `--help`.
    pub value_name: &'static str,
    /// Line in `--help`.
    pub help: &'static str,
}
