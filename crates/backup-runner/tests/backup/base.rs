//! Point-in-time recovery on a server of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use storage_core::config::postgres::PostgresConfig;
use storage_core::postgres::connection::connect;
use storage_core::postgres::migrations;
use storage_core::testing::polling::PATIENCE;
use storage_core::testing::process::{ServerProcess, free_port};
use storage_core::testing::skip::skip;
use tempfile::TempDir;

use crate::support::{Runner, flip_a_byte, pg_bin};

struct Server {
    _process: ServerProcess,
    config: PostgresConfig,
}

impl Server {
    /// Serves the data directory `data`.
    async fn start(programs: &Path, data: &Path, database: &str) -> Self {
        let port = free_port().unwrap().to_string();
        let program = programs.join("postgres");
        let mut command = vec![program.to_str().unwrap(), "-D", data.to_str().unwrap(), "-p", &port];
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_preload_libraries=timescaledb",
            "timescaledb.telemetry_level=off",
        ] {
            command.extend(["-c", setting]);
        }
        let process = ServerProcess::start(&command, "QUIT", TempDir::new().unwrap()).unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable");
        let config = PostgresConfig::at(&url).unwrap();
        let taking_writes = async || {
            let mut connection = connect(&config, "test").await.ok()?;
            connection
                .batch_execute("CREATE TEMPORARY TABLE it_takes_writes ()")
                .await
                .ok()
        };
        process.until(PATIENCE, taking_writes).await.unwrap();
        Self {
            _process: process,
            config,
        }
    }

    async fn connect(&self) -> AsyncPgConnection {
        connect(&self.config, "test").await.unwrap()
    }
}

#[derive(QueryableByName)]
struct Shown {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn ask(connection: &mut AsyncPgConnection, query: &str) -> String {
    sql_query(query).get_result::<Shown>(connection).await.unwrap().value
}

async fn add(connection: &mut AsyncPgConnection, symbol: &str) {
    connection
        .batch_execute(&format!("INSERT INTO symbols (symbol) VALUES ('{symbol}')"))
        .await
        .unwrap();
}

/// Returns the folder of PostgreSQL's programs, if it contains a server.
fn server_programs() -> Option<PathBuf> {
    let programs = pg_bin().filter(|folder| folder.join("initdb").exists());
    if programs.is_none() {
        skip("no PostgreSQL server; run `scripts/services tools`");
    }
    programs
}

/// Starts a server with the schema and the symbol BEFORE, and makes a base backup.
async fn backed_up(programs: &Path, data: &Path) -> (Server, Runner) {
    let initdb = Command::new(programs.join("initdb"))
        .args(["-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "--no-sync", "-D"])
        .arg(data)
        .output()
        .unwrap();
    assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
    let server = Server::start(programs, data, "postgres").await;
    migrations::run(server.connect().await).await.unwrap();
    add(&mut server.connect().await, "BEFORE").await;
    let runner = Runner::new().database(server.config.url.expose());
    runner.done(&["backup", "base"]);
    let runner = runner
        .setting("backup.wal=true")
        .setting("backup.redis_every=0s")
        .setting("backup.postgres_every=0s");
    (server, runner)
}

/// Reads the current time of the server's clock.
async fn now(connection: &mut AsyncPgConnection) -> String {
    let moment = ask(
        connection,
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS value",
    )
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    moment
}

/// Waits until all WAL that was written is archived.
async fn archived(connection: &mut AsyncPgConnection) {
    let end = ask(connection, "SELECT pg_current_wal_lsn()::text AS value").await;
    let archived = format!(
        "SELECT (restart_lsn >= '{end}')::text AS value FROM pg_replication_slots WHERE slot_name = 'backup_runner'"
    );
    for _ in 0..600 {
        if ask(connection, &archived).await == "true" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const SYMBOLS: &str = "SELECT string_agg(symbol, ' ' ORDER BY first_seen) AS value FROM symbols";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_comes_back_as_it_was_at_a_moment() {
    let Some(programs) = server_programs() else { return };
    let folder = TempDir::new().unwrap();
    let (server, runner) = backed_up(&programs, &folder.path().join("data")).await;
    let mut connection = server.connect().await;
    let running = runner.start();
    running.ready().await;
    // The next run completes the segment that the killed one has left.
    running.kill().await;
    let running = runner.start();
    running.ready().await;

    add(&mut connection, "WANTED").await;
    let moment = now(&mut connection).await;
    add(&mut connection, "UNWANTED").await;
    archived(&mut connection).await;
    running.stop().await;
    drop(connection);
    drop(server);

    assert!(runner.done(&["verify", "--all"]).contains("whole"));
    let recovered = folder.path().join("recovered");
    let recovered_at = recovered.to_str().unwrap();
    let early = [
        "restore",
        "base",
        "latest",
        "--data-dir",
        recovered_at,
        "--target-time",
        "2020-01-01T00:00:00Z",
    ];
    assert!(runner.failed(&early).contains("the backup was finished later"));
    let printed = runner.done(&[
        "restore",
        "base",
        "latest",
        "--data-dir",
        recovered_at,
        "--target-time",
        &moment,
    ]);
    assert!(printed.contains("it will recover up to"), "{printed}");
    assert!(
        runner
            .failed(&["restore", "base", "latest", "--data-dir", recovered_at])
            .contains("not empty")
    );
    let server = Server::start(&programs, &recovered, "postgres").await;
    assert_eq!(ask(&mut server.connect().await, SYMBOLS).await, "BEFORE WANTED");
    drop(server);

    let to_the_end = folder.path().join("to the end");
    runner.done(&["restore", "base", "latest", "--data-dir", to_the_end.to_str().unwrap()]);
    let server = Server::start(&programs, &to_the_end, "postgres").await;
    assert_eq!(
        ask(&mut server.connect().await, SYMBOLS).await,
        "BEFORE WANTED UNWANTED"
    );
    drop(server);

    flip_a_byte(&runner.only("base").join("base.tar.gz"));
    assert!(runner.failed(&["verify"]).contains("base.tar.gz was changed"));
    fs::remove_dir_all(&recovered).unwrap();
}

/// Returns the command between backquotes.
fn advice(said: &str) -> &str {
    said.split('`').nth(1).expect("a command")
}

/// Damage to an archive: its name, the function that causes it, and a part of the error.
type ArchiveDamage = (&'static str, fn(&[PathBuf]), &'static str);

const DAMAGES: [ArchiveDamage; 7] = [
    (
        "a segment is missing",
        |wal| fs::remove_file(&wal[2]).unwrap(),
        "is missing",
    ),
    (
        "the first is missing",
        |wal| fs::remove_file(&wal[0]).unwrap(),
        "is missing",
    ),
    (
        "a record has changed",
        |wal| change(&wal[2], |bytes| bytes[100] ^= 1),
        "is damaged at",
    ),
    (
        "a segment is cut off",
        |wal| change(&wal[2], |bytes| bytes.truncate(1 << 20)),
        "has 1048576 bytes instead of 16777216",
    ),
    (
        "a segment is empty",
        |wal| change(&wal[2], |bytes| bytes.fill(0)),
        "has no WAL from",
    ),
    (
        "a segment is another one",
        |wal| _ = fs::copy(&wal[1], &wal[2]).unwrap(),
        "contains the WAL of",
    ),
    (
        "a segment is of another server",
        |wal| change(&wal[2], |bytes| bytes[24] ^= 1),
        "belongs to the server with system identifier",
    ),
];

fn change(file: &Path, by: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    by(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// Returns the segments after the base backup, oldest first.
fn segments(runner: &Runner) -> Vec<PathBuf> {
    let folder = fs::read_dir(runner.folder().join("wal"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let first = runner.manifests()[0]["content"]["start_segment"]
        .as_str()
        .unwrap()
        .to_owned();
    files.retain(|file| *file.file_name().unwrap() > *first);
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_would_end_early_is_refused_and_one_up_to_there_is_not() {
    let Some(programs) = server_programs() else { return };
    let folder = TempDir::new().unwrap();
    let (server, runner) = backed_up(&programs, &folder.path().join("data")).await;
    let running = runner.start();
    running.ready().await;
    let mut connection = server.connect().await;
    let mut moments = Vec::new();
    for symbol in ["FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH"] {
        add(&mut connection, symbol).await;
        moments.push(now(&mut connection).await);
        connection.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    add(&mut connection, "LAST").await;
    archived(&mut connection).await;
    running.stop().await;
    drop((connection, server));

    assert!(runner.done(&["verify", "--all"]).contains("whole"));
    let wal = segments(&runner);
    assert!(wal.len() >= 6, "{wal:?}");
    let whole: Vec<Vec<u8>> = wal.iter().map(|file| fs::read(file).unwrap()).collect();

    for (at, (what, damage, said)) in DAMAGES.into_iter().enumerate() {
        damage(&wal);
        let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
        let verified = runner.failed(&["verify", "--all"]);
        assert!(verified.contains(said), "{what}: {verified}");
        let data = folder.path().join(format!("recovered {at}"));
        let restore = |target: &[&str]| {
            let restore = ["restore", "base", "latest", "--data-dir", data.to_str().unwrap()];
            [&restore[..], target]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let run = |args: &[String]| runner.failed(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let refused = run(&restore(&[]));
        let damaged = if what.contains("first") { &wal[0] } else { &wal[2] };
        assert!(
            refused.contains(said) && refused.contains(&name(damaged)),
            "{what}: {refused}"
        );
        assert!(!data.exists(), "{what}");
        let too_late = run(&restore(&["--target-time", &moments[4]]));
        assert!(too_late.contains(said), "{what}: {too_late}");

        // The command as printed, in a shell with the program in PATH.
        let program = Path::new(env!("CARGO_BIN_EXE_backup-runner")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let restored = Command::new("sh")
            .args(["-c", advice(&refused)])
            .env("PATH", path)
            .env("STORAGE_BACKUP__PG_BIN", &programs)
            .output()
            .unwrap();
        assert!(
            restored.status.success(),
            "{what}: {}",
            String::from_utf8_lossy(&restored.stderr)
        );
        // Recoveries are slow, so only some run: one from an empty archive, the others from a part of it.
        if at < 3 {
            let server = Server::start(&programs, &data, "postgres").await;
            let symbols = ask(&mut server.connect().await, SYMBOLS).await;
            let expected = if at == 1 { "BEFORE" } else { "BEFORE FIRST SECOND" };
            assert_eq!(symbols, expected, "{what}");
        }
        for (file, bytes) in wal.iter().zip(&whole) {
            fs::write(file, bytes).unwrap();
        }
    }

    let listed = runner.done(&["list"]);
    assert!(listed.contains("archived up to"), "{listed}");

    // Damage after the target does not matter.
    fs::remove_file(&wal[2]).unwrap();
    let data = folder.path().join("before the gap");
    let data_dir = data.to_str().unwrap();
    runner.done(&[
        "restore",
        "base",
        "latest",
        "--data-dir",
        data_dir,
        "--target-time",
        &moments[0],
    ]);
    let server = Server::start(&programs, &data, "postgres").await;
    assert_eq!(ask(&mut server.connect().await, SYMBOLS).await, "BEFORE FIRST");
    let listed = runner.done(&["list"]);
    assert!(listed.contains("is missing"), "{listed}");
}
