//! Drift: differences between the schema and its fingerprint, which the migrations record, and missing privileges.

use std::collections::{BTreeMap, BTreeSet};

use diesel::sql_types::{Array, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::columns::{BoolValue, TextValue};

/// Describes the schema in rows `(kind, object, definition)`. Objects of extensions are left out. Settings of policies
/// are left out, too: `aggregator-admin plan` compares them.
const DESCRIPTION: &str = "
WITH own AS (
    SELECT oid, relname::text AS name, relkind,
           (SELECT view_definition FROM timescaledb_information.continuous_aggregates
            WHERE view_schema = current_schema() AND view_name = relname) AS aggregate
    FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')
      AND relname <> '__diesel_schema_migrations'
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid
                      AND deptype = 'e')),
policies AS (
    SELECT proc_name, jobs.config, schedule_interval, coalesce(view_name, jobs.hypertable_name)::text AS name
    FROM timescaledb_information.jobs
    LEFT JOIN timescaledb_information.continuous_aggregates
        ON jobs.hypertable_name IN (view_name, materialization_hypertable_name)
    WHERE proc_name IN ('policy_refresh_continuous_aggregate', 'policy_compression'))
SELECT 'server' AS kind, 'PostgreSQL' AS object, split_part(current_setting('server_version'), '.', 1) AS definition
UNION ALL
SELECT 'table', name, '' FROM own WHERE relkind <> 'v'
UNION ALL
SELECT 'view', name, format('CREATE VIEW %I AS %s', name, pg_get_viewdef(oid)) FROM own
WHERE relkind = 'v' AND aggregate IS NULL
UNION ALL
SELECT 'continuous aggregate', name, format(
           'CREATE MATERIALIZED VIEW %I WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS %s '
           'WITH NO DATA', name, rtrim(aggregate, E'; \\n'))
FROM own WHERE aggregate IS NOT NULL
UNION ALL
SELECT 'column', name || '.' || attname, format_type(atttypid, atttypmod)
           || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
           || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '')
FROM own JOIN pg_attribute ON attrelid = oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relkind <> 'v'
UNION ALL
SELECT 'constraint', name || '.' || conname, pg_get_constraintdef(pg_constraint.oid)
FROM own JOIN pg_constraint ON conrelid = own.oid WHERE contype IN ('p', 'u', 'c', 'f', 'x')
UNION ALL
SELECT 'index', own.name || '.' || index.relname, pg_get_indexdef(indexrelid)
FROM own JOIN pg_index ON indrelid = own.oid JOIN pg_class index ON index.oid = indexrelid
WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
UNION ALL
SELECT 'function', proname::text, pg_get_functiondef(pg_proc.oid) FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND prokind = 'f'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e')
UNION ALL
SELECT 'policy', 'refresh of ' || name, format(
           'SELECT add_continuous_aggregate_policy(%L, start_offset => INTERVAL %L, end_offset => INTERVAL %L, '
           'schedule_interval => INTERVAL %L)',
           name, config->>'start_offset', config->>'end_offset', schedule_interval)
FROM policies WHERE proc_name = 'policy_refresh_continuous_aggregate'
UNION ALL
SELECT 'policy', 'compression of ' || name, format(
           'SELECT add_compression_policy(%L, compress_after => INTERVAL %L, schedule_interval => INTERVAL %L)',
           name, config->>'compress_after', schedule_interval)
FROM policies WHERE proc_name = 'policy_compression'";

/// Returns the statement that records the schema as its fingerprint. Earlier versions have no fingerprint.
pub(super) fn record_statement() -> String {
    format!(
        "DO $record$ BEGIN
             IF to_regclass('schema_fingerprint') IS NOT NULL THEN
                 DELETE FROM schema_fingerprint;
                 INSERT INTO schema_fingerprint SELECT DISTINCT ON (kind, object) * FROM ({DESCRIPTION}) description;
             END IF;
         END $record$"
    )
}

/// Records the present schema as the fingerprint.
pub async fn accept(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection
        .transaction(async |connection| connection.batch_execute(&record_statement()).await)
        .await
}

#[derive(Debug, QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    object: String,
    #[diesel(sql_type = Text)]
    definition: String,
}

/// Definition by kind and object.
type Description = BTreeMap<(String, String), String>;

async fn read(connection: &mut AsyncPgConnection, query: &str) -> QueryResult<Description> {
    let rows: Vec<Row> = sql_query(query).get_results(connection).await?;
    let row = |row: Row| ((row.kind, row.object), row.definition);
    Ok(rows.into_iter().map(row).collect())
}

/// Returns what differs from the fingerprint, each with the way out.
pub async fn find(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    let recorded = read(connection, "SELECT kind, object, definition FROM schema_fingerprint").await?;
    match recorded.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(differences(&recorded, &read(connection, DESCRIPTION).await?)),
    }
}

fn differences(recorded: &Description, present: &Description) -> Vec<String> {
    let server = ("server".to_owned(), "PostgreSQL".to_owned());
    // Another major version may write the same definition in another way.
    let is_same_server = recorded.get(&server) == present.get(&server);
    let tables: BTreeSet<&str> = recorded
        .keys()
        .filter(|(kind, _)| kind == "table")
        .map(|(_, object)| object.as_str())
        .collect();
    let has_table = |object: &str| match object.split_once('.') {
        Some((table, _)) => present.contains_key(&("table".to_owned(), table.to_owned())),
        None => true,
    };
    let mut found = Vec::new();
    for ((kind, object), definition) in recorded {
        let now = present.get(&(kind.clone(), object.clone()));
        match now {
            None if has_table(object) => found.push(missing(kind, object, definition)),
            Some(now) if normalized(now) != normalized(definition) && is_same_server && is_compared(kind) => {
                found.push(format!(
                    "{kind} {object} is `{now}` and should be `{definition}`{ACCEPT}"
                ));
            }
            _ => {}
        }
    }
    for (kind, object) in present.keys().filter(|key| !recorded.contains_key(*key)) {
        let Some((table, name)) = object.split_once('.') else {
            continue;
        };
        if tables.contains(table) {
            let remedy = match kind.as_str() {
                "index" => format!("DROP INDEX {name}"),
                "constraint" => format!("ALTER TABLE {table} DROP CONSTRAINT {name}"),
                _ => format!("ALTER TABLE {table} DROP COLUMN {name}"),
            };
            found.push(format!("{kind} {object} was added; remove it with `{remedy}`{ACCEPT}"));
        }
    }
    found
}

const ACCEPT: &str = ", or accept it with `aggregator-admin migrate --accept-schema`";

/// Returns `true` if a changed definition is a drift. The definition of an aggregate depends on the version of
/// TimescaleDB, and the settings of policies are compared by `aggregator-admin plan`.
fn is_compared(kind: &str) -> bool {
    matches!(kind, "column" | "constraint" | "index" | "view" | "function")
}

/// Returns the definition without what PostgreSQL writes in another way after a dump was restored: parentheses, spaces,
/// and the name of a column in a later branch of a UNION.
fn normalized(definition: &str) -> String {
    let text: String = definition
        .chars()
        .filter(|c| !c.is_whitespace() && !"()".contains(*c))
        .collect();
    text.replace("AStext", "")
}

fn missing(kind: &str, object: &str, definition: &str) -> String {
    let (table, name) = object.split_once('.').unwrap_or((object, object));
    let remedy = match kind {
        "table" => return format!("table {object} is missing; restore it from a backup"),
        "column" => format!("ALTER TABLE {table} ADD COLUMN {name} {definition}"),
        "constraint" => format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"),
        _ => definition.to_owned(),
    };
    let after = match kind {
        "continuous aggregate" => ", then run `aggregator-admin refresh --all`",
        _ => "",
    };
    format!("{kind} {object} is missing; restore it with `{remedy}`{after}{ACCEPT}")
}

const GRANTS: &str = include_str!("../../../../deploy/postgres/grants.sql");
const WARM_SYNCER: &str = "warm-syncer";

/// Returns the privileges of warm-syncer as `(table, privilege)`.
fn granted() -> Vec<(&'static str, &'static str)> {
    let to_warm_syncer = |line: &'static str| {
        let (privileges, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
        let tables = rest.strip_suffix(&format!(" TO \"{WARM_SYNCER}\";"))?;
        Some((privileges, tables))
    };
    let pairs = GRANTS
        .lines()
        .filter_map(to_warm_syncer)
        .flat_map(|(privileges, tables)| {
            let tables = tables.split(", ");
            tables.flat_map(move |table| privileges.split(", ").map(move |privilege| (table, privilege)))
        });
    pairs.collect()
}

/// Returns a warning of the privileges that warm-syncer lacks. They are granted after a migration, by a script, so this
/// is no drift.
pub async fn missing_privileges(connection: &mut AsyncPgConnection) -> QueryResult<Option<String>> {
    let role: BoolValue = sql_query("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS value")
        .bind::<Text, _>(WARM_SYNCER)
        .get_result(connection)
        .await?;
    if !role.value {
        return Ok(None);
    }
    let (tables, privileges): (Vec<&str>, Vec<&str>) = granted().into_iter().unzip();
    let lacking: Vec<TextValue> = sql_query(
        "SELECT privilege || ' on ' || name AS value FROM (SELECT unnest($2) AS name, unnest($3) AS privilege) needed
         WHERE CASE WHEN to_regclass(quote_ident(name)) IS NOT NULL
               THEN NOT has_table_privilege($1, quote_ident(name), privilege) END",
    )
    .bind::<Text, _>(WARM_SYNCER)
    .bind::<Array<Text>, _>(tables)
    .bind::<Array<Text>, _>(privileges)
    .get_results(connection)
    .await?;
    if lacking.is_empty() {
        return Ok(None);
    }
    let names: Vec<String> = lacking.into_iter().map(|row| row.value).collect();
    Ok(Some(format!(
        "{WARM_SYNCER} lacks privileges ({}); run deploy/postgres/grants.sql as the owner",
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(rows: &[(&str, &str, &str)]) -> Description {
        let row = |(kind, object, definition): &(&str, &str, &str)| {
            ((String::from(*kind), String::from(*object)), String::from(*definition))
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn a_difference_names_the_statement_that_removes_it() {
        let recorded = description(&[
            ("table", "ticks", ""),
            ("column", "ticks.side", "text"),
            ("column", "ticks.price", "double precision NOT NULL"),
            ("constraint", "ticks.ticks_pkey", "PRIMARY KEY (symbol)"),
            (
                "policy",
                "compression of ticks",
                "SELECT add_compression_policy('ticks')",
            ),
            ("table", "signals", ""),
            ("column", "signals.side", "text"),
        ]);
        let present = description(&[
            ("table", "ticks", ""),
            ("column", "ticks.price", "numeric"),
            ("column", "ticks.note", "text"),
            ("index", "ticks.mine", "CREATE INDEX"),
            ("table", "mine", ""),
            ("column", "mine.note", "text"),
        ]);
        let found = differences(&recorded, &present);
        let expected = [
            "column ticks.price is `numeric` and should be `double precision NOT NULL`",
            "column ticks.side is missing; restore it with `ALTER TABLE ticks ADD COLUMN side text`",
            "constraint ticks.ticks_pkey is missing; restore it with `ALTER TABLE ticks ADD CONSTRAINT ticks_pkey",
            "policy compression of ticks is missing; restore it with `SELECT add_compression_policy('ticks')`",
            "table signals is missing; restore it from a backup",
            "column ticks.note was added; remove it with `ALTER TABLE ticks DROP COLUMN note`",
            "index ticks.mine was added; remove it with `DROP INDEX mine`",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
        assert_eq!(differences(&recorded, &recorded), Vec::<String>::new());
    }

    #[test]
    fn a_restored_dump_is_no_difference() {
        let recorded = description(&[
            ("constraint", "symbols.symbols_check", "CHECK (((a) AND (b)) AND (c))"),
            (
                "view",
                "units",
                "CREATE VIEW units AS SELECT '1m'::text UNION ALL SELECT '5m'::text",
            ),
        ]);
        let restored = description(&[
            ("constraint", "symbols.symbols_check", "CHECK ((a) AND (b) AND (c))"),
            (
                "view",
                "units",
                "CREATE VIEW units AS SELECT '1m'::text UNION ALL SELECT '5m'::text AS text",
            ),
        ]);
        assert_eq!(differences(&recorded, &restored), Vec::<String>::new());
        let changed = description(&[
            ("constraint", "symbols.symbols_check", "CHECK ((a) AND (b))"),
            ("view", "units", "CREATE VIEW units AS SELECT '1m'::text"),
        ]);
        assert_eq!(differences(&recorded, &changed).len(), 2);
    }

    #[test]
    fn the_privileges_are_those_of_the_script() {
        let granted = granted();
        assert!(granted.contains(&("ticks", "UPDATE")) && granted.contains(&("dead_letters", "INSERT")));
        assert!(granted.contains(&("ticks", "DELETE")) && !granted.contains(&("candles_1m", "DELETE")));
    }
}
