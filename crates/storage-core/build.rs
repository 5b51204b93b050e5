//! The migrations are embedded, and a new one must be noticed: the macro knows only the files that it found last time.
#![allow(clippy::print_stdout, reason = "how a build script talks to cargo")]

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
