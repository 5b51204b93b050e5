//! Leases of partitions, and the fair share of each replica of a worker. When replicas start or stop, as few partitions
//! as possible change their owner.
//!
//! Leases avoid double work but do not guard correctness: revisions guard every write, so a replica that has lost its
//! lease without noticing changes nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::ConnectionLike;

use super::{functions, keys};
use crate::domain::time::duration_ms;

/// Membership of one replica in the group of a worker's replicas.
#[derive(Clone, Debug)]
pub struct Membership {
    worker: &'static str,
    instance: String,
    ttl_ms: u64,
}

impl Membership {
    /// Creates the membership of replica `instance` of `worker`. Its leases expire `ttl` after it last renewed them.
    pub fn new(worker: &'static str, instance: String, ttl: Duration) -> Self {
        Self {
            worker,
            instance,
            ttl_ms: duration_ms(ttl),
        }
    }

    /// Renews the membership and returns the partitions of this replica's fair share.
    pub async fn share(&self, conn: &mut impl ConnectionLike, partitions: u16) -> RedisResult<Vec<u16>> {
        let join = functions::join(&keys::members(self.worker), &self.instance, self.ttl_ms);
        let members: Vec<String> = join.query_async(conn).await?;
        let holders = holders(conn, self.worker, partitions).await?;
        Ok(fair_share(&self.instance, members, &holders))
    }

    /// Acquires or renews the lease of `partition`. Returns `false` if another replica holds it.
    pub async fn acquire(&self, conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<bool> {
        functions::acquire_lease(&keys::lease(self.worker, partition), &self.instance, self.ttl_ms)
            .query_async(conn)
            .await
    }

    /// Releases the lease of `partition`.
    pub async fn release(&self, conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<()> {
        functions::release_lease(&keys::lease(self.worker, partition), &self.instance)
            .query_async(conn)
            .await
    }

    /// Ends the membership, so that the other replicas acquire this replica's partitions immediately.
    pub async fn leave(&self, conn: &mut impl ConnectionLike) -> RedisResult<()> {
        redis::cmd("HDEL")
            .arg(keys::members(self.worker))
            .arg(&self.instance)
            .query_async(conn)
            .await
    }
}

/// Reads the replicas of `worker`, each with the time of its last renewal in ms since 1970.
pub async fn members(conn: &mut impl ConnectionLike, worker: &str) -> RedisResult<BTreeMap<String, u64>> {
    redis::cmd("HGETALL").arg(keys::members(worker)).query_async(conn).await
}

/// Reads the replica of `worker` that holds each partition.
pub async fn holders(
    conn: &mut impl ConnectionLike,
    worker: &str,
    partitions: u16,
) -> RedisResult<Vec<Option<String>>> {
    if partitions == 0 {
        return Ok(Vec::new());
    }
    let mut get = redis::pipe();
    for partition in 0..partitions {
        get.get(keys::lease(worker, partition));
    }
    get.query_async(conn).await
}

/// Returns the partitions of `instance`. The shares of any two `members` differ by at most one partition, and as few
/// partitions as possible move away from their `holders`.
fn fair_share(instance: &str, mut members: Vec<String>, holders: &[Option<String>]) -> Vec<u16> {
    members.sort_unstable();
    members.dedup();
    let Some(least) = holders.len().checked_div(members.len()) else {
        return Vec::new();
    };
    let held = |member: &str| {
        holders
            .iter()
            .filter(|holder| holder.as_deref() == Some(member))
            .count()
    };
    let mut room: BTreeMap<&str, usize> = members.iter().map(|member| (member.as_str(), least)).collect();
    let mut by_held: Vec<&str> = room.keys().copied().collect();
    by_held.sort_by_key(|member| Reverse(held(member)));
    for member in by_held.into_iter().take(holders.len() % members.len()) {
        room.entry(member).and_modify(|room| *room += 1);
    }

    let mut takes = |member: &str| match room.get_mut(member) {
        Some(room) if *room > 0 => {
            *room -= 1;
            true
        }
        _ => false,
    };
    let mut owners: Vec<Option<&str>> = holders
        .iter()
        .map(|holder| holder.as_deref().filter(|holder| takes(holder)))
        .collect();
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        *owner = members.iter().map(String::as_str).find(|member| takes(member));
    }
    let own = (0..).zip(owners).filter(|(_, owner)| *owner == Some(instance));
    own.map(|(partition, _)| partition).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fair_share;

    fn names(members: &[u8]) -> Vec<String> {
        members.iter().map(u8::to_string).collect()
    }

    fn shares(members: &[u8], holders: &[Option<String>]) -> Vec<Vec<u16>> {
        let share = |member: &u8| fair_share(&member.to_string(), names(members), holders);
        members.iter().map(share).collect()
    }

    #[test]
    fn only_the_partitions_of_a_replica_that_left_move() {
        let holders: Vec<_> = ["1", "2", "3", "1", "2", "3"]
            .map(|name| Some(name.to_owned()))
            .to_vec();
        assert_eq!(shares(&[1, 2, 3], &holders), [vec![0, 3], vec![1, 4], vec![2, 5]]);
        assert_eq!(shares(&[1, 3], &holders), [vec![0, 1, 3], vec![2, 4, 5]]);
        assert_eq!(
            shares(&[1, 2, 3, 4], &holders),
            [vec![0, 3], vec![1, 4], vec![2], vec![5]]
        );
        assert!(fair_share("9", names(&[1, 2]), &holders).is_empty());
    }

    proptest! {
        #[test]
        fn every_partition_has_one_owner_shares_differ_by_one_and_are_kept(
            members in prop::collection::btree_set(0u8..8, 1..6),
            holders in prop::collection::vec(prop::option::of(0u8..8), 0..20),
        ) {
            let members: Vec<u8> = members.into_iter().collect();
            let name = |holder: Option<u8>| holder.map(|name| name.to_string());
            let holders: Vec<Option<String>> = holders.into_iter().map(name).collect();
            let shared = shares(&members, &holders);
            let mut all: Vec<u16> = shared.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..u16::try_from(holders.len()).unwrap()).collect::<Vec<_>>());
            let sizes = || shared.iter().map(Vec::len);
            prop_assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
            for (member, share) in members.iter().zip(&shared) {
                let held = holders.iter().flatten().filter(|holder| **holder == member.to_string()).count();
                let kept = share.iter().filter(|p| holders[usize::from(**p)] == Some(member.to_string())).count();
                prop_assert_eq!(kept, held.min(share.len()));
            }
            let mut settled = holders.clone();
            for (member, share) in members.iter().zip(&shared) {
                share.iter().for_each(|p| settled[usize::from(*p)] = Some(member.to_string()));
            }
            prop_assert_eq!(shares(&members, &settled), shared);
        }
    }
}
