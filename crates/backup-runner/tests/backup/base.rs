//! Point-in-time recovery on a server of its own.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use storage_core::config::postgres::PostgresConfig;
use storage_core::postgres::connection::connect;
use storage_core::postgres::migrations;
use storage_core::testing::process::ServerProcess;
use tempfile::TempDir;

use crate::run::Running;
use crate::support::{Runner, flip_a_byte, pg_bin, until};

const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    _process: ServerProcess,
    config: PostgresConfig,
}

impl Server {
    /// Serves the data directory `data`.
    async fn start(programs: &Path, data: &Path, database: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
            .to_string();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_comes_back_as_it_was_at_a_moment() {
    let Some(programs) = pg_bin().filter(|folder| folder.join("initdb").exists()) else {
        assert!(
            std::env::var_os("TEST_REQUIRE_SERVERS").is_none(),
            "no PostgreSQL server"
        );
        eprintln!("skipped: no PostgreSQL server; run `scripts/services tools`");
        return;
    };
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let initdb = Command::new(programs.join("initdb"))
        .args(["-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "--no-sync", "-D"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
    let server = Server::start(&programs, &data, "postgres").await;
    migrations::run(server.connect().await).await.unwrap();
    let mut connection = server.connect().await;
    add(&mut connection, "BEFORE").await;

    let runner = Runner::new().database(server.config.url.expose());
    runner.done(&["backup", "base"]);
    let runner = runner
        .setting("backup.wal=true")
        .setting("backup.redis_every=0s")
        .setting("backup.postgres_every=0s");
    let running = Running::start(&runner);
    until("the archive", || running.get("/readyz").ends_with("ready\n"));
    // What a killed one leaves behind is taken over by the next.
    running.kill();
    let running = Running::start(&runner);
    until("the archive", || running.get("/readyz").ends_with("ready\n"));

    add(&mut connection, "WANTED").await;
    let moment = ask(
        &mut connection,
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS value",
    )
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    add(&mut connection, "UNWANTED").await;
    let end = ask(&mut connection, "SELECT pg_current_wal_lsn()::text AS value").await;
    let archived = format!(
        "SELECT (restart_lsn >= '{end}')::text AS value FROM pg_replication_slots WHERE slot_name = 'backup_runner'"
    );
    for _ in 0..600 {
        if ask(&mut connection, &archived).await == "true" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop();
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
    assert!(runner.failed(&early).contains("WAL only leads forward"));
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
    let symbols = "SELECT string_agg(symbol, ' ' ORDER BY symbol) AS value FROM symbols";
    assert_eq!(ask(&mut server.connect().await, symbols).await, "BEFORE WANTED");
    drop(server);

    let to_the_end = folder.path().join("to the end");
    runner.done(&["restore", "base", "latest", "--data-dir", to_the_end.to_str().unwrap()]);
    let server = Server::start(&programs, &to_the_end, "postgres").await;
    assert_eq!(
        ask(&mut server.connect().await, symbols).await,
        "BEFORE UNWANTED WANTED"
    );
    drop(server);

    flip_a_byte(&runner.only("base").join("base.tar.gz"));
    assert!(runner.failed(&["verify"]).contains("base.tar.gz was changed"));
    fs::remove_dir_all(&recovered).unwrap();
}
