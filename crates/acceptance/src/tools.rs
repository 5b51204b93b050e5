//! The programs that `scripts/services tools` installs.

use std::env;
use std::path::PathBuf;

use storage_core::testing::process::project;

/// Returns the path of an installed program, or of a folder of programs.
pub fn tool(name: &str) -> PathBuf {
    env::var_os("PG_BIN")
        .map_or_else(|| project().join(".dev/bin"), PathBuf::from)
        .join(name)
}
