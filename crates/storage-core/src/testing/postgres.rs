//! A database for each test, on a server of the wanted TimescaleDB edition:
//!
//! 1. the server that `DATABASE_URL` names, if it has that edition and takes more than one session;
//! 2. Apache: the server that `TEST_NATIVE_DATABASE_URL` names (`scripts/test` starts it), else one for this process;
//!    Community: an embedded server for this test.
//!
//! A test's database on a shared server is a copy of a template, which was migrated once by the owner and with the
//! rights of `deploy/postgres`; [`TestDatabase::login`] returns a worker's configuration. Without a server,
//! [`TestDatabase::start`] skips the test ([`skip`]) and returns `None`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use anyhow::Context;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use url::Url;

use super::native::{NativeServer, patient};
use super::polling::PATIENCE;
use super::process::{ServerProcess, project, text, tool};
use super::roles::{self, ROLES};
use super::skip::skip;
use crate::config::postgres::PostgresConfig;
use crate::postgres::connection::connect;
use crate::postgres::edition::{Edition, Server};
use crate::postgres::migrations;
use crate::postgres::pool::Pool;

const APPLICATION: &str = "test";

/// A database that only this test uses. Dropping it drops the database.
#[derive(Debug)]
pub struct TestDatabase {
    config: PostgresConfig,
    edition: Edition,
    has_roles: bool,
    host: Host,
}

#[derive(Debug)]
enum Host {
    /// A server for this database.
    Own { _server: ServerProcess },
    /// A server that the test owns and drops with its databases.
    Lent,
    /// A server of several tests; this database is dropped.
    Shared { admin: PostgresConfig, database: String },
}

impl TestDatabase {
    /// Creates a database with this version's schema; skips the test and returns `None` without a server of `edition`.
    pub async fn start(edition: Edition) -> Option<Self> {
        or_skip(edition, Self::open(edition, true).await)
    }

    /// Creates a database like [`TestDatabase::start`], without schema and extension (an embedded server has the
    /// extension).
    pub async fn start_empty(edition: Edition) -> Option<Self> {
        or_skip(edition, Self::open(edition, false).await)
    }

    /// Creates a database with this version's schema on each edition that has a server here; skips the others.
    pub async fn start_each() -> Vec<Self> {
        let mut each = Vec::new();
        for edition in [Edition::Community, Edition::Apache] {
            each.extend(Self::start(edition).await);
        }
        each
    }

    /// Creates a database without schema and extension on `server`, on its small disk if it has one.
    pub async fn on(server: &NativeServer) -> anyhow::Result<Self> {
        let admin = server.config();
        let mut tablespace = "pg_default";
        if let Some(disk) = server.small_disk() {
            tablespace = "small";
            let create = format!("CREATE TABLESPACE {tablespace} LOCATION '{}'", text(disk)?);
            execute(admin, &create).await?;
        }
        let database = unique_name();
        let create = format!("CREATE DATABASE {database} TEMPLATE template0 TABLESPACE {tablespace}");
        execute(admin, &create).await?;
        Ok(Self {
            config: at_database(admin, &database)?,
            edition: Edition::Apache,
            has_roles: false,
            host: Host::Lent,
        })
    }

    async fn open(edition: Edition, migrated: bool) -> anyhow::Result<Option<Self>> {
        let shared = match shared_server(edition).await? {
            Some(shared) => shared,
            None if edition == Edition::Community => return Self::embedded(migrated).await,
            None => match native_server().await? {
                Some(native) => native.clone(),
                None => return Ok(None),
            },
        };
        let database = unique_name();
        if migrated {
            shared.copy_template(&database).await?;
        } else {
            execute(&shared.admin, &format!("CREATE DATABASE {database} TEMPLATE template0")).await?;
        }
        let config = at_database(&shared.admin, &database)?;
        Ok(Some(Self {
            config,
            edition,
            has_roles: migrated,
            host: Host::Shared {
                admin: shared.admin,
                database,
            },
        }))
    }

    async fn embedded(migrated: bool) -> anyhow::Result<Option<Self>> {
        let Some((node, program)) = tool("NODE", "/usr/bin/node").zip(tool("EMBEDDED_SERVER", EMBEDDED_SERVER)) else {
            return Ok(None);
        };
        if !program.with_file_name("node_modules").exists() {
            return Ok(None);
        }
        let command = [text(&node)?, text(&program)?, "--memory", "--port", "0"];
        let (server, config) = match migrated {
            false => embedded_server(&command).await?,
            true => {
                let template = embedded_template(&command).await?;
                let started = embedded_server(&[&command[..], &["--template", text(template)?]].concat()).await?;
                execute(&started.1, "UPDATE database_identity SET id = DEFAULT").await?;
                started
            }
        };
        Ok(Some(Self {
            config,
            edition: Edition::Community,
            has_roles: false,
            host: Host::Own { _server: server },
        }))
    }

    /// Returns the superuser's configuration.
    pub fn config(&self) -> PostgresConfig {
        self.config.clone()
    }

    /// Returns the configuration of the worker or reader `name`, with its role of `deploy/postgres`; the superuser's if
    /// there is no such role.
    pub fn login(&self, name: &str) -> PostgresConfig {
        if self.has_roles && ROLES.contains(&name) {
            roles::login(&self.config, name).expect("a URL with a host")
        } else {
            self.config()
        }
    }

    /// Returns the superuser's URL of this database, without a password: test servers need none.
    pub fn url(&self) -> &str {
        self.config.url.expose()
    }

    /// Returns the server's edition.
    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// Returns a pool of connections to the database.
    pub fn pool(&self) -> Pool {
        Pool::new(&self.config, APPLICATION)
    }

    /// Opens a connection to the database.
    pub async fn connect(&self) -> AsyncPgConnection {
        connect(&self.config, APPLICATION)
            .await
            .expect("the test's database takes connections")
    }

    /// Runs statements.
    pub async fn execute(&self, statements: &str) {
        let executed = self.connect().await.batch_execute(statements).await;
        executed.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Returns the only value of `query`, a number.
    pub async fn number(&self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let query = sql_query(format!("SELECT ({query})::bigint AS number"));
        let row: Row = query.get_result(&mut self.connect().await).await.expect("a number");
        row.number
    }

    /// Returns the only value of `query`, as text.
    pub async fn text(&self, query: &str) -> String {
        self.texts(&format!("SELECT ({query})::text AS text")).await.remove(0)
    }

    /// Returns the values of the column `text` of `query`.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            text: String,
        }
        let rows: QueryResult<Vec<Row>> = sql_query(query).get_results(&mut self.connect().await).await;
        rows.expect("texts").into_iter().map(|row| row.text).collect()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Host::Shared { admin, database } = &self.host else {
            return;
        };
        let (admin, drop) = (
            admin.clone(),
            format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"),
        );
        // A thread with its own runtime: drop can't await, and the test's runtime may be shutting down.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(execute(&admin, &drop)))
        });
        if !matches!(dropping.join(), Ok(Ok(()))) {
            eprintln!("could not drop the database {database}");
        }
    }
}

/// Starts an embedded server and returns it with its configuration.
async fn embedded_server(command: &[&str]) -> anyhow::Result<(ServerProcess, PostgresConfig)> {
    let folder = TempDir::new()?;
    let port_file = folder.path().join("port");
    let command = [command, &["--port-file", text(&port_file)?]].concat();
    let server = ServerProcess::start(&command, "KILL", folder)?;
    let port = server
        .until(PATIENCE, async || fs::read_to_string(&port_file).ok())
        .await
        .context("embedded server")?;
    let config = patient(&format!(
        "postgres://postgres@127.0.0.1:{}/market?sslmode=disable",
        port.trim()
    ))?;
    Ok((server, config))
}

/// Returns the file from which an embedded server starts with this version's schema: migrating takes it longer than
/// starting.
async fn embedded_template(command: &[&str]) -> anyhow::Result<&'static Path> {
    static TEMPLATE: OnceCell<PathBuf> = OnceCell::const_new();
    let template = TEMPLATE
        .get_or_try_init(async || {
            let cache = env::var_os("DEV_CACHE_DIR").map_or_else(|| project().join(".dev/cache"), PathBuf::from);
            let file = cache.join(format!("embedded-migrated-{:016x}.tar", hash_of_migrations()?));
            if !file.exists() {
                let unfinished = format!("{}.{}", text(&file)?, process::id());
                let (server, config) = embedded_server(&[command, &["--dump", &unfinished]].concat()).await?;
                migrations::run(connect(&config, APPLICATION).await?).await?;
                server.end("TERM");
                fs::rename(unfinished, &file)?;
            }
            anyhow::Ok(file)
        })
        .await?;
    Ok(template)
}

fn or_skip(edition: Edition, opened: anyhow::Result<Option<TestDatabase>>) -> Option<TestDatabase> {
    let database = opened.unwrap_or_else(|error| panic!("a test database: {error:#}"));
    if database.is_none() {
        skip(&format!(
            "no server of the {edition} edition; run `scripts/services tools`"
        ));
    }
    database
}

/// A server of several tests, with a template that has this version's schema.
#[derive(Clone, Debug)]
struct SharedServer {
    admin: PostgresConfig,
    template: String,
    edition: Edition,
}

async fn shared_server(edition: Edition) -> anyhow::Result<Option<SharedServer>> {
    if let Some(config) = from_environment("DATABASE_URL")?
        && !is_single_session(&config).await?
    {
        let shared = SharedServer::new(config).await?;
        if shared.edition == edition {
            return Ok(Some(shared));
        }
    }
    match from_environment("TEST_NATIVE_DATABASE_URL")? {
        Some(config) if edition == Edition::Apache => SharedServer::new(config).await.map(Some),
        _ => Ok(None),
    }
}

fn from_environment(name: &str) -> anyhow::Result<Option<PostgresConfig>> {
    let Ok(url) = env::var(name) else { return Ok(None) };
    let password_file = env::var_os("DATABASE_PASSWORD_FILE")
        .filter(|_| name == "DATABASE_URL")
        .map(PathBuf::from);
    Ok(Some(PostgresConfig {
        password_file,
        ..patient(&url)?
    }))
}

async fn is_single_session(config: &PostgresConfig) -> anyhow::Result<bool> {
    let mut connection = connect(config, APPLICATION).await?;
    Ok(Server::detect(&mut connection)
        .await?
        .is_some_and(|server| server.single_session))
}

/// Starts the native server of this process, or returns the running one. It ends with the process, because a static is
/// never dropped.
async fn native_server() -> anyhow::Result<Option<&'static SharedServer>> {
    static SERVER: OnceCell<Option<(SharedServer, NativeServer)>> = OnceCell::const_new();
    let server = SERVER
        .get_or_try_init(async || {
            let Some(native) = NativeServer::start_if_installed(None, &[], None).await? else {
                return anyhow::Ok(None);
            };
            Ok(Some((SharedServer::new(native.config().clone()).await?, native)))
        })
        .await?;
    Ok(server.as_ref().map(|(shared, _)| shared))
}

#[derive(QueryableByName)]
struct Template {
    #[diesel(sql_type = Nullable<Text>)]
    edition: Option<String>,
}

impl SharedServer {
    /// Finds the template of this version's schema, or creates it, under a lock that all test processes share.
    async fn new(admin: PostgresConfig) -> anyhow::Result<Self> {
        let template = format!("template_{:016x}", hash_of_migrations()?);
        let mut connection = connect(&admin, APPLICATION).await?;
        connection
            .batch_execute("SELECT pg_advisory_lock(hashtext('storage test template'))")
            .await?;
        let found: Option<Template> = sql_query(
            "SELECT shobj_description(oid, 'pg_database') AS edition FROM pg_database
             WHERE datname = $1 AND NOT datallowconn",
        )
        .bind::<Text, _>(&template)
        .get_result(&mut connection)
        .await
        .optional()?;
        let edition = match found.and_then(|template| template.edition).as_deref() {
            Some("community") => Edition::Community,
            Some("apache") => Edition::Apache,
            _ => Self::create_template(&admin, &template, &mut connection).await?,
        };
        Ok(Self {
            admin,
            template,
            edition,
        })
    }

    async fn create_template(
        admin: &PostgresConfig,
        template: &str,
        connection: &mut AsyncPgConnection,
    ) -> anyhow::Result<Edition> {
        connection
            .batch_execute(&format!("DROP DATABASE IF EXISTS {template} WITH (FORCE)"))
            .await?;
        connection
            .batch_execute(&format!("CREATE DATABASE {template} TEMPLATE template0"))
            .await?;
        let inside = at_database(admin, template)?;
        roles::deploy(&inside).await?;
        let server = Server::detect(&mut connect(&inside, APPLICATION).await?)
            .await?
            .context("no extension")?;
        let edition = server.edition;
        connection
            .batch_execute(&format!(
                "COMMENT ON DATABASE {template} IS '{edition}';
                 ALTER DATABASE {template} ALLOW_CONNECTIONS false;
                 SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'"
            ))
            .await?;
        Ok(edition)
    }

    /// Creates `database` as a copy of the template. The copy has neither the template's owner nor its rights.
    async fn copy_template(&self, database: &str) -> anyhow::Result<()> {
        let template = &self.template;
        let create = format!("CREATE DATABASE {database} TEMPLATE {template} OWNER \"aggregator-admin\"");
        execute(&self.admin, &create).await?;
        let rights = format!(
            "REVOKE ALL ON DATABASE {database} FROM PUBLIC;
             GRANT CONNECT ON DATABASE {database} TO \"warm-syncer\", \"backup-runner\", reader"
        );
        execute(&self.admin, &rights).await
    }
}

async fn execute(config: &PostgresConfig, statement: &str) -> anyhow::Result<()> {
    connect(config, APPLICATION).await?.batch_execute(statement).await?;
    Ok(())
}

fn at_database(config: &PostgresConfig, database: &str) -> anyhow::Result<PostgresConfig> {
    let mut url = Url::parse(config.url.expose())?;
    url.set_path(database);
    Ok(PostgresConfig {
        url: PostgresConfig::at(url.as_str())?.url,
        ..config.clone()
    })
}

fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test_{}_{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

const EMBEDDED_SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/embedded/server.mjs");

/// Hashes all migrations and rights. A server that outlives a run must not serve an outdated template.
fn hash_of_migrations() -> anyhow::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut folders = vec![project().join("migrations"), roles::SCRIPTS.into()];
    fs::read(project().join("scripts/embedded/package-lock.json"))?.hash(&mut hasher);
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        entries.sort();
        for entry in entries {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                entry.hash(&mut hasher);
                fs::read(&entry)?.hash(&mut hasher);
            }
        }
    }
    Ok(hasher.finish())
}
