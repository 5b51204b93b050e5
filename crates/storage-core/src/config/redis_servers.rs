//! [`RedisServers`]: the servers that a Redis URL names: one, a cluster, or a master behind Sentinels.

use std::str::FromStr;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

const SENTINEL_PORT: u16 = 26379;

/// The servers of a Redis.
#[derive(Clone, Debug)]
pub enum RedisServers {
    /// One server, or an address that is always that of the master.
    One(ConnectionInfo),
    /// Some nodes of a Redis Cluster; the driver asks them for the others.
    Cluster(Vec<ConnectionInfo>),
    /// Sentinels, and the name of the master.
    Sentinel {
        /// Sentinels; they are asked without a login.
        sentinels: Vec<ConnectionInfo>,
        /// Name of the master.
        master: String,
        /// Connection to the master, without its address.
        node: ConnectionInfo,
    },
}

impl RedisServers {
    /// Returns the same servers with another login.
    pub(super) fn with_login(self, login: impl Fn(RedisConnectionInfo) -> RedisConnectionInfo) -> Self {
        let with_login = |info: ConnectionInfo| {
            let settings = login(info.redis_settings().clone());
            info.set_redis_settings(settings)
        };
        match self {
            Self::One(info) => Self::One(with_login(info)),
            Self::Cluster(nodes) => Self::Cluster(nodes.into_iter().map(with_login).collect()),
            Self::Sentinel {
                sentinels,
                master,
                node,
            } => Self::Sentinel {
                sentinels,
                master,
                node: with_login(node),
            },
        }
    }
}

/// Message for an invalid URL. It does not quote the URL, which may hold a password.
const EXPECTED: &str = "not the URL of a Redis: write redis://[USER@]HOST[:PORT][/DB], \
     redis+cluster://[USER@]HOST:PORT[,HOST:PORT…], redis+sentinel://[USER@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB], \
     with rediss for TLS, and special characters of a password percent-encoded";

/// Message for a URL with a fragment, such as `#insecure`.
const FRAGMENT: &str = "must not contain `#`: the certificate of a server is always checked, against `redis.ca_file` \
     or the authorities of the system; in a password write %23";

impl FromStr for RedisServers {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if url.contains('#') {
            return Err(FRAGMENT);
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(EXPECTED);
        };
        let Some((base @ ("redis" | "rediss"), kind)) = scheme.split_once('+') else {
            return parse(url).map(Self::One);
        };
        let (login, place) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (hosts, path) = place.split_once('/').unwrap_or((place, ""));
        match (kind, path.split_once('/').unwrap_or((path, ""))) {
            ("cluster", ("", "")) => {
                let nodes = hosts.split(',').map(|host| parse(&format!("{base}://{login}{host}")));
                nodes.collect::<Result<_, _>>().map(Self::Cluster)
            }
            ("sentinel", (master, database)) if !master.is_empty() => {
                let sentinels = hosts.split(',').map(|host| match host.rsplit_once(':') {
                    Some(_) => parse(&format!("{base}://{host}")),
                    None => parse(&format!("{base}://{host}:{SENTINEL_PORT}")),
                });
                Ok(Self::Sentinel {
                    sentinels: sentinels.collect::<Result<_, _>>()?,
                    master: master.to_owned(),
                    node: parse(&format!("{base}://{login}master/{database}"))?,
                })
            }
            _ => Err(EXPECTED),
        }
    }
}

fn parse(url: &str) -> Result<ConnectionInfo, &'static str> {
    url.into_connection_info().map_err(|_| EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(nodes: &[ConnectionInfo]) -> Vec<String> {
        nodes.iter().map(|node| node.addr().to_string()).collect()
    }

    #[test]
    fn a_cluster_is_named_by_some_of_its_nodes() {
        let RedisServers::Cluster(nodes) = "rediss+cluster://u:p%40s@a:1,b:2".parse().unwrap() else {
            panic!("no cluster");
        };
        assert_eq!(addresses(&nodes), ["a:1", "b:2"]);
        assert!(nodes.iter().all(|node| node.redis_settings().password() == Some("p@s")));
    }

    #[test]
    fn a_master_is_named_by_its_sentinels() {
        let RedisServers::Sentinel {
            sentinels,
            master,
            node,
        } = "redis+sentinel://u:p@a,b:2/market/3".parse().unwrap()
        else {
            panic!("no sentinels");
        };
        assert_eq!(addresses(&sentinels), ["a:26379", "b:2"]);
        assert!(
            sentinels
                .iter()
                .all(|sentinel| sentinel.redis_settings().password().is_none())
        );
        assert_eq!(master, "market");
        assert_eq!(
            (node.redis_settings().username(), node.redis_settings().db()),
            (Some("u"), 3)
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for url in [
            "http+cluster://a:1",
            "redis+cluster://a:1/2",
            "redis+cluster://",
            "redis+sentinel://a",
            "redis+ring://a",
            "a:1",
            "rediss://a:1/#insecure",
            "rediss+cluster://a:1,b:2#insecure",
        ] {
            assert!(url.parse::<RedisServers>().is_err(), "{url}");
        }
    }
}
