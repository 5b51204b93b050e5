//! The kind of Redis that the suite runs on: `REDIS_FLAVOUR` is `redis` (the default), `redis8`, `valkey` or `cluster`,
//! as for `scripts/services up --redis`.

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
    /// Returns the kind that `REDIS_FLAVOUR` names.
    pub fn chosen() -> Self {
        match std::env::var("REDIS_FLAVOUR").as_deref() {
            Ok("" | "redis") | Err(_) => Self::Redis,
            Ok("redis8") => Self::Redis8,
            Ok("valkey") => Self::Valkey,
            Ok("cluster") => Self::Cluster,
            Ok(other) => panic!("REDIS_FLAVOUR is {other}, not redis, redis8, valkey or cluster"),
        }
    }

    /// Returns the reason why this kind of Redis can't run on this machine; `None` if it can.
    pub fn missing(self) -> Option<String> {
        let there = self.programs().is_none() || self.server().exists();
        (!there).then(|| format!("no {}; run `scripts/services tools`", self.server().display()))
    }

    /// Returns the folder of the programs; `None` for those in `PATH`.
    pub fn programs(self) -> Option<PathBuf> {
        match self {
            Self::Redis | Self::Cluster => None,
            Self::Redis8 => Some(tool("redis8")),
            Self::Valkey => Some(tool("valkey")),
        }
    }

    /// Returns the path of the server program.
    pub fn server(self) -> PathBuf {
        let name = if self == Self::Valkey {
            "valkey-server"
        } else {
            "redis-server"
        };
        self.programs().unwrap_or_default().join(name)
    }

    /// Returns the number of servers that share the keys.
    pub const fn masters(self) -> u16 {
        match self {
            Self::Cluster => 3,
            _ => 1,
        }
    }
}
