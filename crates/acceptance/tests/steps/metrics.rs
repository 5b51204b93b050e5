//! Metrics, health and Prometheus.

use acceptance::tools::tool;
use cucumber::gherkin::Step;
use cucumber::{then, when};
use storage_core::testing::http::{self, samples};
use storage_core::testing::polling::until;
use storage_core::testing::process::{ServerProcess, free_port, project};
use storage_core::testing::program::Program;
use tempfile::TempDir;

use super::check::equal;
use super::table::rows;
use super::world::World;

#[then("these metrics are exported with help and type:")]
async fn metrics_there(world: &mut World, step: &Step) {
    for row in rows(step) {
        let (worker, name) = (&row["worker"], &row["metric"]);
        let (_, page) = world.pipeline.worker(worker).get("/metrics").await;
        let lines = [format!("# HELP {name} "), format!("# TYPE {name} {}", row["type"])];
        for line in lines {
            assert!(
                page.lines().any(|found| found.starts_with(&line)),
                "{worker}: expected `{line}`, found\n{page}"
            );
        }
        let has_sample = samples(&page).keys().any(|sample| sample.starts_with(name.as_str()));
        assert!(has_sample, "{worker}: expected a sample of {name}, found\n{page}");
    }
}

#[then(regex = r"^the metric (\S+) of the (\S+) is (\d+)$")]
async fn metric_is(world: &mut World, name: String, worker: String, value: f64) {
    let worker = world.pipeline.worker(&worker);
    until(&name, async || {
        equal(&worker.metrics().await.get(&name).copied(), &Some(value))
    })
    .await;
}

#[then(expr = "\\/healthz of the {word} returns {int}")]
async fn healthz(world: &mut World, worker: String, status: u16) {
    assert_eq!(world.pipeline.worker(&worker).get("/healthz").await.0, status);
}

#[when("Prometheus scrapes every worker")]
async fn prometheus(world: &mut World) {
    let mut targets = Vec::new();
    for worker in world.pipeline.workers() {
        targets.push(format!("'127.0.0.1:{}'", worker.port().await));
    }
    let config = format!(
        "scrape_configs:\n  - job_name: workers\n    scrape_interval: 1s\n    static_configs:\n      - targets: [{}]\n",
        targets.join(", ")
    );
    let file = world.pipeline.file("prometheus.yml", &config);
    let port = free_port().unwrap();
    let folder = TempDir::new().unwrap();
    let command = [
        tool("prometheus").display().to_string(),
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    world.notes.prometheus = Some((ServerProcess::start(&words, "KILL", folder).unwrap(), port));
}

async fn ask(world: &World, query: &str) -> Result<Vec<String>, String> {
    let (_, port) = world.notes.prometheus.as_ref().expect("a Prometheus");
    let (_, body) = http::get(*port, &format!("/api/v1/query?query={query}")).await?;
    let answer: serde_json::Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
    let results = answer["data"]["result"].as_array().ok_or(body)?;
    Ok(results
        .iter()
        .filter_map(|result| result["value"][1].as_str().map(str::to_owned))
        .collect())
}

#[then(expr = "Prometheus reports {int} workers as up")]
async fn workers_up(world: &mut World, count: usize) {
    until("targets", async || equal(&ask(world, "up").await?, &vec!["1"; count])).await;
}

#[then(expr = "Prometheus reports {word} as {int}")]
async fn prometheus_value(world: &mut World, name: String, value: u64) {
    until(&name, async || equal(&ask(world, &name).await?, &[value.to_string()])).await;
}

#[when("promtool checks the alert rules")]
async fn promtool(world: &mut World) {
    let rules = project()
        .join("deploy/prometheus/alerts.yml")
        .canonicalize()
        .expect("alert rules");
    let promtool = Program::at(tool("promtool"));
    let outcome = promtool.run(&["check", "rules", rules.to_str().unwrap()]).await;
    world.outcome = Some(outcome);
}
