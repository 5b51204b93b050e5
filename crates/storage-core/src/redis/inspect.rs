//! State of a Redis server: version, role, persistence, memory, settings and function libraries.

use std::collections::BTreeMap;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::connection::Connection;
use super::reply;

/// Reply to INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info(BTreeMap<String, String>);

impl Info {
    /// Parses the reply.
    pub fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(
            fields
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    /// Returns the text of a field.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// Returns the number in a field.
    pub fn number(&self, field: &str) -> Option<i64> {
        self.text(field)?.parse().ok()
    }

    /// Returns `true` if a field is 1.
    pub fn flag(&self, field: &str) -> bool {
        self.text(field) == Some("1")
    }

    /// Returns the version of the server, followed by its name if it is not Redis.
    pub fn version(&self) -> String {
        match (self.text("valkey_version"), self.text("redis_version")) {
            (Some(version), _) => format!("{version} (Valkey)"),
            (None, version) => version.unwrap_or("unknown").to_owned(),
        }
    }

    /// Returns the number of keys of each database that is not empty.
    pub fn keyspace(&self) -> BTreeMap<i64, u64> {
        let databases = self.0.iter().filter_map(|(name, value)| {
            let number = name.strip_prefix("db")?.parse().ok()?;
            let keys = value.strip_prefix("keys=")?.split(',').next()?.parse().ok()?;
            Some((number, keys))
        });
        databases.collect()
    }
}

/// Memory of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Memory that counts against the limit.
    pub used_bytes: u64,
    /// `maxmemory`; `None` if there is no limit.
    pub limit_bytes: Option<u64>,
}

impl Memory {
    fn of(info: &Info) -> Self {
        let bytes = |field: &str| {
            info.number(field)
                .and_then(|bytes| u64::try_from(bytes).ok())
                .unwrap_or(0)
        };
        Self {
            used_bytes: bytes("used_memory").saturating_sub(bytes("mem_not_counted_for_evict")),
            limit_bytes: Some(bytes("maxmemory")).filter(|limit| *limit > 0),
        }
    }

    /// Returns `true` if the limit is reached, so that Redis refuses the writes of producers.
    pub fn is_full(&self) -> bool {
        self.limit_bytes.is_some_and(|limit| self.used_bytes >= limit)
    }
}

/// Reads the memory of the server, or of each master of a cluster.
pub async fn memory(conn: &mut Connection) -> RedisResult<Vec<Memory>> {
    let infos = infos_of_masters(conn, "memory").await?;
    Ok(infos.iter().map(Memory::of).collect())
}

/// Reads the default sections of INFO.
pub async fn info(conn: &mut impl ConnectionLike) -> RedisResult<Info> {
    info_of(conn, &[]).await
}

/// Reads some sections of INFO.
pub async fn info_of(conn: &mut impl ConnectionLike, sections: &[&str]) -> RedisResult<Info> {
    let text: String = cmd("INFO").arg(sections).query_async(conn).await?;
    Ok(Info::parse(&text))
}

/// Reads a setting; `None` if the user may not read it or the server does not have it.
pub async fn setting(conn: &mut impl ConnectionLike, name: &str) -> RedisResult<Option<String>> {
    match cmd("CONFIG")
        .arg("GET")
        .arg(name)
        .query_async::<BTreeMap<String, String>>(conn)
        .await
    {
        Ok(mut settings) => Ok(settings.remove(name)),
        // ERR: CONFIG is renamed, as on managed servers.
        Err(error) if error.code().is_some_and(|code| code == "NOPERM" || code == "ERR") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists the names of the function libraries.
pub async fn libraries(conn: &mut impl ConnectionLike) -> RedisResult<Vec<String>> {
    let libraries: Vec<BTreeMap<String, redis::Value>> = cmd("FUNCTION").arg("LIST").query_async(conn).await?;
    let names = libraries
        .into_iter()
        .filter_map(|mut library| library.remove("library_name"));
    names
        .map(|name| reply::bytes(name).map(|name| String::from_utf8_lossy(&name).into_owned()))
        .collect()
}

/// Reads the statistics of commands on every master.
pub async fn command_statistics(conn: &mut Connection) -> RedisResult<Vec<Info>> {
    infos_of_masters(conn, "commandstats").await
}

async fn infos_of_masters(conn: &mut Connection, section: &str) -> RedisResult<Vec<Info>> {
    let texts: Vec<String> = conn.of_every_master(cmd("INFO").arg(section)).await?;
    Ok(texts.iter().map(|text| Info::parse(text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_full_at_the_limit_without_what_eviction_does_not_count() {
        let memory = |text: &str| Memory::of(&Info::parse(text));
        let full = memory("used_memory:110\r\nmem_not_counted_for_evict:10\r\nmaxmemory:100\r\n");
        assert_eq!(
            (full.used_bytes, full.limit_bytes, full.is_full()),
            (100, Some(100), true)
        );
        assert!(!memory("used_memory:109\r\nmem_not_counted_for_evict:10\r\nmaxmemory:100\r\n").is_full());
        assert!(!memory("used_memory:110\r\nmaxmemory:0\r\n").is_full());
    }

    #[test]
    fn fields_of_info_are_read() {
        let info = Info::parse(
            "# Server\r\nredis_version:7.0.15\r\naof_enabled:1\r\n\r\n# Keyspace\r\n\
             db0:keys=12,expires=3,avg_ttl=0\r\ndb3:keys=1,expires=0\r\n",
        );
        assert_eq!(info.version(), "7.0.15");
        assert!(info.flag("aof_enabled"));
        assert!(!info.flag("aof_rewrite_in_progress"));
        assert_eq!(info.keyspace(), BTreeMap::from([(0, 12), (3, 1)]));
    }

    #[test]
    fn the_version_of_valkey_is_not_the_redis_version_that_it_reports() {
        let info = Info::parse("# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n");
        assert_eq!(info.version(), "8.1.1 (Valkey)");
    }
}
