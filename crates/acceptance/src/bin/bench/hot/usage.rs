//! Resources that Redis and the workers have used.

use std::fs;

use acceptance::redis_server::RedisServer;
use anyhow::Context;

/// Clock ticks per second in `/proc`: the same on every architecture of Linux.
const CLOCK_TICKS_PER_S: f64 = 100.0;

/// Resources that Redis has used since its start.
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) commands: f64,
}

pub(crate) async fn redis_usage(redis: &RedisServer) -> anyhow::Result<Usage> {
    let info: String = redis.ask(&["INFO", "everything"]).await?;
    let value = |name: &str| -> anyhow::Result<f64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {name} in INFO"))?.trim().parse()?)
    };
    Ok(Usage {
        cpu_s: value("used_cpu_user")? + value("used_cpu_sys")?,
        commands: value("total_commands_processed")?,
    })
}

/// Returns the CPU time that the processes have used, in seconds.
pub(crate) fn worker_cpu(processes: &[u32]) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The fields after the name, which may contain spaces; user and system time are the 14th and 15th of all.
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        for time in fields.split_whitespace().skip(11).take(2) {
            sum += time.parse::<f64>()? / CLOCK_TICKS_PER_S;
        }
    }
    Ok(sum)
}
