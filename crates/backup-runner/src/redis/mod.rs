//! Backup of Redis as one RDB of each master, and its restore into an empty server or cluster.

pub(crate) mod backup;
pub(crate) mod restore;
mod snapshot;
pub(crate) mod temporary;

use std::path::Path;

use anyhow::{Context, anyhow};

use crate::tool::Tool;

/// Name of the RDB of a single server.
pub(crate) const FILE: &str = "dump.rdb";

/// Number of keys that redis-check-rdb counted in an RDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) keys: u64,
    pub(crate) with_expiry: u64,
}

/// Checks an RDB with redis-check-rdb and counts its keys.
pub(crate) async fn check(programs: Option<&Path>, rdb: &Path) -> anyhow::Result<Counted> {
    let printed = Tool::new(programs, "redis-check-rdb")
        .arg(rdb)
        .run()
        .await
        .with_context(|| format!("checking {}", rdb.display()))?;
    counted(&printed).ok_or_else(|| anyhow!("redis-check-rdb did not count the keys of {}: {printed}", rdb.display()))
}

fn counted(printed: &str) -> Option<Counted> {
    let number = |what: &str| {
        let line = printed
            .lines()
            .find_map(|line| line.strip_prefix("[info] ")?.strip_suffix(what))?;
        line.trim().parse().ok()
    };
    Some(Counted {
        keys: number("keys read")?,
        with_expiry: number("expires")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_read_from_the_output() {
        let printed = "[offset 0] Checking RDB file x\n[offset 274] \\o/ RDB looks OK! \\o/\n\
                       [info] 12 keys read\n[info] 7 expires\n[info] 1 already expired\n";
        assert_eq!(
            counted(printed),
            Some(Counted {
                keys: 12,
                with_expiry: 7
            })
        );
        assert_eq!(counted("[offset 274] Checksum OK"), None);
    }
}
