//! Who serves which partition: a lease each, and a fair share among the copies that live.
//!
//! Leases save work, they don't guard correctness: writes are guarded by revisions, so a copy that has lost its lease
//! without knowing changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::ConnectionLike;

use super::{functions, keys};

/// One copy of a worker among its like.
#[derive(Clone, Debug)]
pub struct Membership {
    worker: &'static str,
    instance: String,
    ttl_ms: u64,
}

impl Membership {
    /// The copy `instance` of `worker`; what it holds is free again `ttl` after its last sign of life.
    pub fn new(worker: &'static str, instance: String, ttl: Duration) -> Self {
        Self {
            worker,
            instance,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Gives a sign of life and returns the partitions that are this copy's fair share.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn share(&self, conn: &mut impl ConnectionLike, partitions: u16) -> RedisResult<Vec<u16>> {
        let join = functions::join(&keys::members(self.worker), &self.instance, self.ttl_ms);
        let members: Vec<String> = join.query_async(conn).await?;
        Ok(fair_share(&self.instance, members, partitions))
    }

    /// Takes or renews the lease of `partition`; `false` while another copy holds it.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn hold(&self, conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<bool> {
        functions::lease(&keys::lease(self.worker, partition), &self.instance, self.ttl_ms)
            .query_async(conn)
            .await
    }

    /// Gives the lease of `partition` back.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn release(&self, conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<()> {
        functions::release(&keys::lease(self.worker, partition), &self.instance)
            .query_async(conn)
            .await
    }

    /// Leaves the members, so that the others share this copy's partitions at once.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn leave(&self, conn: &mut impl ConnectionLike) -> RedisResult<()> {
        redis::cmd("HDEL")
            .arg(keys::members(self.worker))
            .arg(&self.instance)
            .query_async(conn)
            .await
    }
}

/// The copies of `worker` that live: their names, and the ms since 1970 of their last sign of life.
///
/// # Errors
/// When Redis can't be asked.
pub async fn members(conn: &mut impl ConnectionLike, worker: &str) -> RedisResult<BTreeMap<String, u64>> {
    redis::cmd("HGETALL").arg(keys::members(worker)).query_async(conn).await
}

/// Which copy of `worker` holds each of the partitions.
///
/// # Errors
/// When Redis can't be asked.
pub async fn holders(
    conn: &mut impl ConnectionLike,
    worker: &str,
    partitions: u16,
) -> RedisResult<Vec<Option<String>>> {
    let mut get = redis::pipe();
    for partition in 0..partitions {
        get.get(keys::lease(worker, partition));
    }
    get.query_async(conn).await
}

/// The partitions of `instance` when all of `members` share them: every n-th in the order of names.
fn fair_share(instance: &str, mut members: Vec<String>, partitions: u16) -> Vec<u16> {
    members.sort_unstable();
    members.dedup();
    let Some(own) = members.iter().position(|member| member == instance) else {
        return Vec::new();
    };
    (0..partitions).skip(own).step_by(members.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::fair_share;

    #[test]
    fn every_partition_has_one_owner_and_shares_differ_by_one_at_most() {
        let members: Vec<String> = ["c", "a", "b"].map(str::to_owned).to_vec();
        let shares: Vec<_> = ["a", "b", "c"].map(|m| fair_share(m, members.clone(), 8)).to_vec();
        assert_eq!(shares, [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
        assert!(fair_share("d", members, 8).is_empty());
    }
}
