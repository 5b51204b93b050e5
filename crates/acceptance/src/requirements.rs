//! Tags that name what a scenario needs of the machine. A scenario that can't run here is skipped with the reason.

use std::env;
use std::path::{Path, PathBuf};

use storage_core::postgres::edition::Edition;

use crate::flavour::Flavour;
use crate::redis_server;
use crate::tools::tool;
use storage_core::testing::process::project;

/// Returns the reason if a scenario with these tags can't run on this machine and `edition`.
pub fn unmet(tags: &[String], edition: Edition) -> Option<String> {
    let has = |tag: &str| tags.iter().any(|other| other == tag);
    if let Some(missing) = missing_server(edition)
        && !has("redis-only")
    {
        return Some(missing);
    }
    if let Some(missing) = Flavour::chosen().missing() {
        return Some(missing);
    }
    if has("real-trades") && market_data().is_none() {
        return Some("MARKET_DATA_DIR names no folder with xrpeth_agg_trades.csv and xrpeth_candles_1m.csv".to_owned());
    }
    if has("own-redis") && redis_server::given().is_some() {
        return Some("it stops or reconfigures Redis, and REDIS_URL names one that is not its own".to_owned());
    }
    if has("own-network") && Flavour::chosen() == Flavour::Cluster {
        return Some("the nodes of a cluster tell their clients where they are, past any proxy between".to_owned());
    }
    if has("one-server") && Flavour::chosen() == Flavour::Cluster {
        return Some("a cluster has its masters replaced by itself, without a Sentinel".to_owned());
    }
    if has("own-database") && !tool("initdb").exists() {
        return Some("no PostgreSQL to start and stop; run `scripts/services tools`".to_owned());
    }
    if has("own-clock") && redis_server::libfaketime().is_none() {
        return Some("no libfaketime to make the clock of Redis jump with".to_owned());
    }
    if has("prometheus") && !tool("prometheus").exists() {
        return Some("no prometheus; run `scripts/services tools`".to_owned());
    }
    if has("openssl") && !Path::new("/usr/bin/openssl").exists() {
        return Some("no openssl to make certificates with".to_owned());
    }
    None
}

/// Returns `true` if a scenario with these tags runs on `edition`. Scenarios of Redis alone run once, with the first
/// edition.
pub fn concerns(tags: &[String], edition: Edition, first: Edition) -> bool {
    let has = |tag: &str| tags.iter().any(|other| other == tag);
    match edition {
        _ if has("redis-only") => edition == first,
        Edition::Community => !has("apache") || has("community"),
        Edition::Apache => !has("community") || has("apache"),
    }
}

fn missing_server(edition: Edition) -> Option<String> {
    if env::var_os("DATABASE_URL").is_some_and(|url| !url.is_empty()) {
        return None;
    }
    let there = match edition {
        Edition::Community => project().join("scripts/embedded/node_modules").exists(),
        Edition::Apache => env::var_os("TEST_NATIVE_DATABASE_URL").is_some() || tool("initdb").exists(),
    };
    (!there).then(|| format!("no server of the {edition} edition; run `scripts/services tools`"))
}

/// Returns the folder with the real trades and the candles made from them by another program.
pub fn market_data() -> Option<PathBuf> {
    let folder = PathBuf::from(env::var_os("MARKET_DATA_DIR")?);
    ["xrpeth_agg_trades.csv", "xrpeth_candles_1m.csv"]
        .iter()
        .all(|file| folder.join(file).exists())
        .then_some(folder)
}
