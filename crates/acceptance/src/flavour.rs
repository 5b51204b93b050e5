//! Which Redis the suite runs on: `REDIS_FLAVOUR` is `redis` (the default), `redis8`, `valkey` or `cluster`, as
//! `scripts/services up --redis` has them.

use std::path::PathBuf;

use crate::tools::tool;

/// A kind of Redis that the pipeline runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The redis-server in `PATH`.
    Redis,
    /// Redis 8.
    Redis8,
    /// Valkey 8.
    Valkey,
    /// A Redis Cluster of three masters.
    Cluster,
}

impl Flavour {
    /// What the environment asks for.
    ///
    /// # Panics
    /// When it is none of these.
    pub fn chosen() -> Self {
        match std::env::var("REDIS_FLAVOUR").as_deref() {
            Ok("" | "redis") | Err(_) => Self::Redis,
            Ok("redis8") => Self::Redis8,
            Ok("valkey") => Self::Valkey,
            Ok("cluster") => Self::Cluster,
            Ok(other) => panic!("REDIS_FLAVOUR is {other}, not redis, redis8, valkey or cluster"),
        }
    }

    /// Why it can't run here, if so.
    pub fn missing(self) -> Option<String> {
        let there = self.programs().is_none() || self.server().exists();
        (!there).then(|| format!("no {}; run `scripts/services tools`", self.server().display()))
    }

    /// The folder of its programs; `None`: those in `PATH`.
    pub fn programs(self) -> Option<PathBuf> {
        match self {
            Self::Redis | Self::Cluster => None,
            Self::Redis8 => Some(tool("redis8")),
            Self::Valkey => Some(tool("valkey")),
        }
    }

    /// The program that is the server.
    pub fn server(self) -> PathBuf {
        let name = if self == Self::Valkey {
            "valkey-server"
        } else {
            "redis-server"
        };
        self.programs().unwrap_or_default().join(name)
    }

    /// How many servers share the keys.
    pub const fn masters(self) -> u16 {
        match self {
            Self::Cluster => 3,
            _ => 1,
        }
    }
}
