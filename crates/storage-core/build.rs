//! Rebuilds the crate after a new migration: the macro that embeds them tracks only the files of the last build.
#![allow(clippy::print_stdout, reason = "how a build script talks to cargo")]

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
