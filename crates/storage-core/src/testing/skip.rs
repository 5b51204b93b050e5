//! Skipped tests.

use std::env;
use std::io::{Write as _, stderr};
use std::thread;

/// Prints `skipped: TEST: REASON`, where TEST is the name of the test that runs on this thread; panics if
/// `TEST_REQUIRE_SERVERS` is set. The test returns after that.
///
/// libtest captures what the print macros write in a passing test, but not what is written to stderr itself.
pub fn skip(reason: &str) {
    assert!(env::var_os("TEST_REQUIRE_SERVERS").is_none(), "{reason}");
    skip_optional(reason);
}

/// Does the same as [`skip`] for a test of something that no script installs; `TEST_REQUIRE_SERVERS` changes nothing.
pub fn skip_optional(reason: &str) {
    let test = thread::current();
    let line = format!("skipped: {}: {reason}\n", test.name().unwrap_or("unnamed test"));
    // Nothing can be reported if stderr is closed.
    let _ = stderr().write_all(line.as_bytes());
}
