use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use super::*;
use crate::config::KeyFlag;
use crate::config::flags::Override;
use crate::config::redis::RedisConfig;
use crate::config::stream::StreamConfig;
use crate::config::telemetry::TelemetryConfig;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    redis: RedisConfig,
    telemetry: TelemetryConfig,
    stream: StreamConfig,
    hot: Hot,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hot {
    batch: usize,
    instance: Option<String>,
    limit: Option<u32>,
    #[serde(with = "humantime_serde")]
    pause: Option<Duration>,
    #[serde(with = "humantime_serde")]
    close_grace: Duration,
    enabled: bool,
    symbols: Vec<String>,
}

impl Configuration for Config {
    const FOREIGN_SECTIONS: &'static [&'static str] = &["warm", "backup"];
    const ZERO_ALLOWED: &'static [&'static str] = &["hot.close_grace"];
    const DEFAULTS: &'static [(&'static str, &'static str)] = &[("telemetry.metrics_listen", "127.0.0.1:9101")];
    const FLAGS: &'static [KeyFlag] = &[KeyFlag {
        name: "batch",
        key: "hot.batch",
        value_name: "N",
        help: "Entries in a batch",
    }];
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            batch: 100,
            instance: None,
            limit: None,
            pause: None,
            close_grace: Duration::ZERO,
            enabled: false,
            symbols: Vec::new(),
        }
    }
}

/// The layers of one test.
#[derive(Default)]
struct Given {
    file: Option<(TempDir, PathBuf)>,
    environment: Vec<(String, String)>,
    flags: Flags,
}

impl Given {
    fn file(mut self, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("storage.toml");
        std::fs::write(&path, text).unwrap();
        self.flags.file = Some(path.clone());
        self.file = Some((dir, path));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn set(mut self, assignment: &str) -> Self {
        let (key, text) = assignment.split_once('=').unwrap();
        self.flags.overrides.push(Override {
            source: format!("--set {key}"),
            key: key.into(),
            text: text.into(),
        });
        self
    }

    fn load(&self) -> Result<Config, Misconfigured> {
        load_from(&self.flags, self.environment.clone())
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn given() -> Given {
    Given::default()
}

#[test]
fn the_later_layer_goes_before_the_earlier() {
    let file = "[hot]\nbatch = 1\n[redis]\nurl = 'redis://file'";
    assert_eq!(given().load().unwrap().hot.batch, 100);
    let layers = given().file(file);
    assert_eq!(layers.load().unwrap().hot.batch, 1);
    let layers = layers.env("STORAGE_HOT__BATCH", "2").env("REDIS_URL", "redis://env");
    assert_eq!(layers.load().unwrap().hot.batch, 2);
    assert_eq!(layers.load().unwrap().redis.url.expose(), "redis://env");
    let layers = layers.set("hot.batch=3").set("redis.url=redis://flag");
    let config = layers.load().unwrap();
    assert_eq!(config.hot.batch, 3);
    assert_eq!(config.redis.url.expose(), "redis://flag");
}

#[test]
fn a_key_keeps_the_layers_below_for_its_siblings() {
    let config = given()
        .file("[stream]\nretention = '1h'")
        .set("stream.partitions=8")
        .load();
    let stream = config.unwrap().stream;
    assert_eq!((stream.partitions, stream.retention), (8, Duration::from_secs(3600)));
}

#[test]
fn a_text_from_the_environment_becomes_what_its_key_is() {
    let hot = given()
        .env("STORAGE_HOT__INSTANCE", "123")
        .env("STORAGE_HOT__LIMIT", "7")
        .env("STORAGE_HOT__ENABLED", "true")
        .env("STORAGE_HOT__SYMBOLS", "[\"A\", \"B\"]")
        .load()
        .unwrap()
        .hot;
    assert_eq!(hot.instance.as_deref(), Some("123"));
    assert_eq!(hot.limit, Some(7));
    assert!(hot.enabled);
    assert_eq!(hot.symbols, ["A", "B"]);
}

#[test]
fn a_password_file_and_an_address_have_short_names() {
    let config = given()
        .env("REDIS_PASSWORD_FILE", "/run/secrets/redis")
        .env("METRICS_LISTEN", "0.0.0.0:0")
        .load()
        .unwrap();
    assert_eq!(config.redis.password_file, Some("/run/secrets/redis".into()));
    assert_eq!(config.telemetry.metrics_listen, "0.0.0.0:0".parse().unwrap());
}

#[test]
fn an_empty_short_name_counts_as_unset() {
    let config = given()
        .env("REDIS_PASSWORD_FILE", "")
        .env("REDIS_URL", "")
        .load()
        .unwrap();
    assert_eq!(config.redis.password_file, None);
    assert_eq!(config.redis.url.expose(), "redis://127.0.0.1:6379");
}

#[test]
fn what_belongs_to_a_sibling_is_ignored_in_file_and_environment() {
    given()
        .file("[warm]\nany = 1\n[postgres]\nurl = 5")
        .env("STORAGE_BACKUP__ANY", "1")
        .env("DATABASE_URL", "anything")
        .load()
        .unwrap();
}

#[test]
fn an_unknown_key_is_refused_with_its_place() {
    let error = given().file("[hot]\nbatches = 1").error();
    assert!(error.contains("storage.toml: unknown key `hot.batches`"), "{error}");
    assert!(error.contains("batch, close_grace"), "{error}");
    let error = given().file("[hott]\nbatch = 1").error();
    assert!(error.contains("unknown key `hott`"), "{error}");
    let error = given().env("STORAGE_HOT__BATCHES", "1").error();
    assert!(
        error.contains("STORAGE_HOT__BATCHES: unknown key `hot.batches`"),
        "{error}"
    );
    let error = given().env("STORAGE_NONSENSE", "1").error();
    assert!(error.contains("STORAGE_NONSENSE: unknown key `nonsense`"), "{error}");
    let error = given().set("hot.batches=1").error();
    assert!(
        error.contains("--set hot.batches: unknown key `hot.batches`"),
        "{error}"
    );
    let error = given().set("hot=1").error();
    assert!(error.contains("`hot` is a section"), "{error}");
}

#[test]
fn a_flag_for_a_section_that_this_worker_lacks_is_refused() {
    assert!(given().set("warm.any=1").error().contains("unknown key `warm`"));
}

#[test]
fn a_value_that_does_not_fit_is_refused_with_its_place() {
    let error = given().env("STORAGE_HOT__BATCH", "many").error();
    assert!(
        error.starts_with("STORAGE_HOT__BATCH: `hot.batch`: must be usize"),
        "{error}"
    );
    let error = given().file("[telemetry]\nlog_format = 'xml'").error();
    assert!(error.contains("storage.toml: `telemetry.log_format`:"), "{error}");
    assert!(error.contains("text"), "{error}");
    let error = given().set("stream.retention=soon").error();
    assert!(
        error.starts_with("--set stream.retention: `stream.retention`:"),
        "{error}"
    );
}

#[test]
fn zero_is_refused_in_every_key_that_it_means_nothing_for() {
    let number = "must be greater than 0";
    let duration = "must be at least 1ms";
    for (setting, wanted) in [
        ("stream.partitions=0", number),
        ("hot.batch=0", number),
        ("hot.limit=0", number),
        ("hot.pause=0s", duration),
        ("hot.pause=999us", duration),
        ("redis.connect_timeout=0ms", duration),
        ("stream.retention=0h", duration),
    ] {
        let key = setting.split('=').next().unwrap();
        let error = given().set(setting).error();
        assert_eq!(error, format!("--set {key}: `{key}`: {wanted}"));
    }
    let error = given().file("[hot]\npause = '0s'").error();
    assert!(
        error.ends_with("storage.toml: `hot.pause`: must be at least 1ms"),
        "{error}"
    );
    let error = given().env("STORAGE_HOT__BATCH", "0").error();
    assert_eq!(error, format!("STORAGE_HOT__BATCH: `hot.batch`: {number}"));
    // Zero is allowed for this key, and `0s` is no duration for a key that holds text.
    let config = given().set("hot.close_grace=0s").set("hot.instance=0s").load();
    assert_eq!(config.unwrap().hot.instance.as_deref(), Some("0s"));
}

#[test]
fn a_file_that_cannot_be_read_or_parsed_is_named() {
    let mut layers = given();
    layers.flags.file = Some("/nonexistent/storage.toml".into());
    assert!(layers.error().starts_with("cannot read /nonexistent/storage.toml: "));
    let error = given().file("[hot]\nbatch = 1\nbatch = 2").error();
    assert!(error.contains("storage.toml, line 3: duplicate key"), "{error}");
}

#[test]
fn no_error_shows_a_secret() {
    for layers in [
        given().file("[redis]\nurl = 'redis://u:hunter2@h:port'"),
        given().file("[redis]\nurl = 'redis://u:hunter2@h"),
        given().file("[redis]\nurl = ['hunter2']"),
        given().file("[redis.url]\npassword = 'hunter2'"),
        given().file("[redis]\npassword = 'hunter2'"),
        given().env("REDIS_URL", "http://u:hunter2@h"),
        given().env("STORAGE_REDIS__URL", "hunter2"),
        given().env("STORAGE_REDIS__PASSWORD", "hunter2"),
        given().set("redis.url=redis://u:hun/hunter2@h"),
        given().set("redis.password=hunter2"),
    ] {
        let error = layers.error();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_effective_configuration_shows_no_secret() {
    let config = given().env("REDIS_URL", "redis://u:hunter2@h").load().unwrap();
    let shown = format!("{config:?}{}", render(&config).unwrap());
    assert!(shown.contains("redis://u:***@h"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn the_effective_configuration_is_a_file_that_gives_the_same_again() {
    let config = given().set("hot.batch=5").set("stream.retention=90s").load().unwrap();
    let text = render(&config).unwrap();
    assert!(text.contains("retention = \"1m 30s\""), "{text}");
    let again = given().file(&text).load().unwrap();
    assert_eq!(render(&again).unwrap(), text);
}

fn parse(args: &[&str]) -> Result<Flags, String> {
    let command = clap::Command::new("worker")
        .args(Flags::args::<Config>())
        .subcommand(clap::Command::new("run"));
    let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
    Flags::of::<Config>(&matches).map_err(|error| error.to_string())
}

#[test]
fn the_flags_stand_before_or_after_the_subcommand() {
    for args in [
        ["worker", "--batch", "1", "--set=hot.limit=2", "--config=a", "run"],
        ["worker", "run", "--batch", "1", "--set=hot.limit=2", "--config=a"],
    ] {
        let flags = parse(&args).unwrap();
        assert_eq!(flags.file, Some("a".into()));
        let set = flags
            .overrides
            .iter()
            .map(|given| (given.source.as_str(), given.key.as_str(), given.text.as_str()));
        assert_eq!(
            set.collect::<Vec<_>>(),
            [("--batch", "hot.batch", "1"), ("--set hot.limit", "hot.limit", "2")]
        );
    }
}

#[test]
fn a_program_has_no_flag_for_a_section_that_it_lacks() {
    let error = parse(&["worker", "--database-url", "postgres://h/d", "run"]).unwrap_err();
    assert!(error.contains("unexpected argument '--database-url'"), "{error}");
    assert!(parse(&["worker", "--redis-url", "redis://h", "run"]).is_ok());
}

#[test]
fn an_assignment_needs_an_equals_sign() {
    let error = parse(&["worker", "--set", "stream.partitions", "run"]).unwrap_err();
    assert!(error.contains("SECTION.KEY=VALUE"), "{error}");
}
