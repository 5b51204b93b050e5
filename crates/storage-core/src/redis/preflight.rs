//! Settings of Redis that lose data: an eviction policy that removes streams, no append-only file, and a default user
//! without the rights that this file needs.
//!
//! While Redis loads the append-only file, it checks the rights of the default user for each transaction, which
//! includes most calls of functions. It skips a transaction that this user may not run, and only its log names it.

use redis::{RedisError, RedisResult, cmd, pipe};

use super::connection::{Connection, explained};
use super::inspect::{Info, info_of};
use super::stream::{HOT_WRITER, Stream};
use super::{keys, nodes};
use crate::config::Misconfigured;
use crate::config::redis::RedisConfig;
use crate::domain::timeframe::Timeframe;

/// The required default user: it is off and has no password, so no client can log in as it.
const DEFAULT_USER: &str = "default off resetpass ~* &* +@all";

/// Remedy for a user that may not run the checks.
const GRANT: &str = "load `redis/users.acl` of this version, or grant the user `+info +acl|dryrun`";

/// Findings about the settings of Redis.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Settings that lose data, each with what to do.
    pub faults: Vec<String>,
    /// Settings that may lose data or could not be read.
    pub warnings: Vec<String>,
}

/// Checks the settings of every master. A check that the user may not run is a warning.
pub async fn inspect(config: &RedisConfig) -> RedisResult<Findings> {
    let mut findings = Findings::default();
    for node in nodes::masters(config).await? {
        let conn = &mut Connection::ordinary(&node);
        let name = node.url.masked();
        let info = permitted(info_of(conn, &["memory", "persistence"]).await)?;
        findings.eviction(&name, info.as_ref());
        findings.append_only(&name, info.as_ref());
        findings.loading(&name, info.as_ref(), permitted(denied(conn).await)?);
    }
    Ok(findings)
}

/// Fails for settings that lose data, and logs those that may.
///
/// # Errors
/// [`Misconfigured`] with every fault and its remedy, or an error of Redis.
pub async fn check(config: &RedisConfig) -> anyhow::Result<()> {
    let findings = inspect(config).await.map_err(|error| explained(error, config))?;
    for warning in &findings.warnings {
        tracing::warn!("{warning}");
    }
    match findings.faults.as_slice() {
        [] => Ok(()),
        faults => Err(Misconfigured::new(faults.join("; ")).into()),
    }
}

impl Findings {
    fn eviction(&mut self, name: &str, info: Option<&Info>) {
        let Some(policy) = info.and_then(|info| info.text("maxmemory_policy")) else {
            return self.warnings.push(format!(
                "cannot check `maxmemory-policy` of Redis at {name}: INFO is not permitted; {GRANT}"
            ));
        };
        let remedy = "run `CONFIG SET maxmemory-policy noeviction` there and put `maxmemory-policy noeviction` into \
                      its configuration file";
        if policy.starts_with("allkeys-") {
            self.faults.push(format!(
                "`maxmemory-policy` of Redis at {name} is {policy}, which removes streams with unread entries; {remedy}"
            ));
        } else if policy != "noeviction" {
            self.warnings.push(format!(
                "`maxmemory-policy` of Redis at {name} is {policy}, which removes open candles and leases; {remedy}"
            ));
        }
    }

    fn append_only(&mut self, name: &str, info: Option<&Info>) {
        if info.is_some_and(|info| !info.flag("aof_enabled")) {
            self.warnings.push(format!(
                "`appendonly` of Redis at {name} is no: a crash loses all ticks since the last snapshot; run \
                 `CONFIG SET appendonly yes` there and put `appendonly yes` into its configuration file"
            ));
        }
    }

    /// Adds the finding about the default user. `denied` is the reason why it may not run a command of the append-only
    /// file; `None` if the check was not permitted.
    fn loading(&mut self, name: &str, info: Option<&Info>, denied: Option<Option<String>>) {
        let Some(denied) = denied else {
            return self.warnings.push(format!(
                "cannot check whether the user `default` of Redis at {name} may run what the append-only file holds: \
                 ACL DRYRUN is not permitted; {GRANT}"
            ));
        };
        let Some(reason) = denied else { return };
        let lost = format!(
            "the user `default` of Redis at {name} may not run what the append-only file holds ({reason}), so the next \
             restart loses it; run `ACL SETUSER {DEFAULT_USER}` there, and put the line `user {DEFAULT_USER}` in \
             place of the other into its file of users, or run `ACL SAVE`"
        );
        match info.is_none_or(|info| info.flag("aof_enabled")) {
            true => self.faults.push(lost),
            false => self.warnings.push(format!("{lost} (`appendonly` is no now)")),
        }
    }
}

/// Returns the reason why the default user may not run one of the commands that workers and producers write with;
/// `None` if it may run all.
async fn denied(conn: &mut Connection) -> RedisResult<Option<String>> {
    let ticks = Stream::Ticks(0).key().to_string();
    let candle = format!("candle:current:{}:BTCUSDT", Timeframe::M1);
    let open = keys::open_symbols(0).to_string();
    let members = keys::members(HOT_WRITER).to_string();
    let lease = keys::lease(HOT_WRITER, 0).to_string();
    let commands: [&[&str]; 14] = [
        &["HSET", "tick:latest:BTCUSDT", "price", "1"],
        &["HSET", &candle, "open", "1"],
        &["PEXPIREAT", &candle, "1"],
        &["HSET", "signal:active:BTCUSDT", "side", "buy"],
        &["SET", &lease, "hot-writer"],
        &["HDEL", &members, "hot-writer"],
        &["ZADD", &open, "1", "BTCUSDT"],
        &["ZREM", &open, "BTCUSDT"],
        &["DEL", &open],
        &["XADD", &ticks, "*", "symbol", "BTCUSDT"],
        &["XCLAIM", &ticks, "hot-writer", "hot-writer", "0", "1-1"],
        &["XGROUP", "SETID", &ticks, "hot-writer", "1-1"],
        &["XGROUP", "DELCONSUMER", &ticks, "hot-writer", "hot-writer"],
        &["FUNCTION", "LOAD", "REPLACE", ""],
    ];
    let mut asks = pipe();
    for command in commands {
        asks.add_command(cmd("ACL").arg("DRYRUN").arg("default").arg(command).clone());
    }
    let answers: Vec<String> = asks.query_async(conn).await?;
    Ok(answers.into_iter().find(|answer| answer != "OK"))
}

/// Returns the answer; `None` if the user may not ask, or the server does not know the command.
fn permitted<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    let is_refused = |error: &RedisError| matches!(error.code(), Some("NOPERM" | "ERR"));
    match answer {
        Err(error) if is_refused(&error) => Ok(None),
        answer => answer.map(Some),
    }
}
