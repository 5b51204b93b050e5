//! The program against real stores.

mod base;
mod interrupted;
mod postgres;
mod redis;
mod run;
mod support;
