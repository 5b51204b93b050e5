// The front as its clients see it. One server in memory for all tests; each test has its own table.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect as connectSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import * as wire from "../wire.mjs";

const folder = mkdtempSync(join(tmpdir(), "embedded-"));
let server;

async function start(...args) {
  const portFile = join(folder, `port-${Math.random()}`);
  const script = new URL("../server.mjs", import.meta.url).pathname;
  const process = spawn("node", [script, "--port-file", portFile, ...args], { stdio: "inherit" });
  while (!existsSync(portFile)) {
    assert.equal(process.exitCode, null, "the server ended");
    await sleep(20);
  }
  return { process, port: Number(readFileSync(portFile)) };
}

async function stop({ process }, signal = "SIGTERM") {
  const exit = once(process, "exit");
  process.kill(signal);
  return (await exit)[0];
}

async function client(options = {}) {
  const defaults = { host: "127.0.0.1", user: "postgres", database: "market", password: "any", port: server.port };
  const it = new pg.Client({ ...defaults, ...options });
  it.on("error", () => {});
  await it.connect();
  return it;
}

const value = async (it, sql, parameters) => Object.values((await it.query(sql, parameters)).rows[0])[0];

/** A client that says exactly what it is told, for what a driver would never do. */
async function rawClient() {
  const socket = connectSocket(server.port, "127.0.0.1");
  socket.on("error", () => {});
  const parameters = ["user", "postgres", "database", "market"].map(wire.text);
  const startup = Buffer.concat([Buffer.alloc(8), ...parameters, Buffer.from([0])]);
  startup.writeInt32BE(startup.length, 0);
  startup.writeInt32BE(wire.PROTOCOL_3_0, 4);
  socket.write(startup);
  await once(socket, "data");
  return socket;
}

before(async () => {
  server = await start("--memory", "--lock-timeout", "1500");
});

after(async () => {
  assert.equal(await stop(server), 0);
  rmSync(folder, { recursive: true });
});

test("the server says that it has a single session", async () => {
  const it = await client();
  assert.equal(await value(it, "SELECT current_setting('embedded.single_session', true)"), "on");
  await it.query("RESET ALL");
  assert.equal(await value(it, "SELECT current_setting('embedded.single_session', true)"), "on");
  await it.end();
});

test("another database is refused by name", async () => {
  await assert.rejects(client({ database: "other" }), { code: "3D000" });
});

test("six writers lose no update", async () => {
  const setup = await client();
  await setup.query("CREATE TABLE counter AS SELECT 0 AS n");
  await Promise.all(Array.from({ length: 6 }, async () => {
    const it = await client();
    for (let i = 0; i < 20; i++) {
      await it.query("BEGIN");
      const n = await value(it, "SELECT n FROM counter");
      await it.query("UPDATE counter SET n = $1", [n + 1]);
      await it.query("COMMIT");
    }
    await it.end();
  }));
  assert.equal(await value(setup, "SELECT n FROM counter"), 120);
  await setup.end();
});

test("a client killed inside a transaction is rolled back", async () => {
  const [killed, other] = [await client(), await client()];
  await other.query("CREATE TABLE killed(n int)");
  await killed.query("BEGIN");
  await killed.query("INSERT INTO killed VALUES (1)");
  killed.connection.stream.destroy();
  assert.equal(await value(other, "SELECT count(*)::int FROM killed"), 0);
  await other.end();
});

test("a client killed between Parse and Sync leaves the session usable", async () => {
  const other = await client();
  for (const statement of ["SELECT 1", "SELECT nonsense"]) {
    const socket = await rawClient();
    socket.write(wire.message("P", wire.text("s"), wire.text(statement), Buffer.alloc(2)));
    await once(socket, "data");
    socket.destroy();
    assert.equal(await value(other, "SELECT 7"), 7);
  }
  assert.equal(await value(other, "SELECT count(*)::int FROM pg_prepared_statements WHERE name LIKE '%s'"), 0);
  await other.end();
});

test("prepared statements of one name belong to their clients", async () => {
  const [a, b] = [await client(), await client()];
  for (let i = 0; i < 2; i++) {
    assert.equal((await a.query({ name: "same", text: "SELECT 'a' AS v" })).rows[0].v, "a");
    assert.equal((await b.query({ name: "same", text: "SELECT 'b' AS v" })).rows[0].v, "b");
  }
  await a.query("PREPARE plan AS SELECT 'a' AS v");
  await b.query("PREPARE plan AS SELECT 'b' AS v");
  assert.equal(await value(a, "EXECUTE plan"), "a");
  await b.query("DISCARD ALL");
  assert.equal(await value(a, "EXECUTE plan"), "a");
  await assert.rejects(b.query("EXECUTE plan"), { code: "26000" });
  await a.end();
  await b.end();
});

test("settings of a client that sets them as pg_dump does stay its own", async () => {
  const [dump, other] = [await client(), await client()];
  await other.query("SET TIME ZONE 'Asia/Tokyo'");
  await dump.query("SELECT pg_catalog.set_config('search_path', '', false)");
  await dump.query("SET datestyle = ISO; SET intervalstyle = postgres; SET my.own = 'x'; SET TIME ZONE 'Europe/Paris'");
  assert.equal(await value(other, "SHOW search_path"), '"$user", public');
  assert.equal(await value(other, "SHOW timezone"), "Asia/Tokyo");
  assert.equal(await value(dump, "SHOW search_path"), "");
  assert.equal(await value(dump, "SHOW my.own"), "x");
  assert.equal(await value(dump, "SHOW timezone"), "Europe/Paris");
  await dump.end();
  const fresh = await client({ options: "-c timezone=Asia/Kolkata" });
  assert.equal(await value(fresh, "SHOW search_path"), '"$user", public');
  assert.equal(await value(fresh, "SHOW timezone"), "Asia/Kolkata");
  await fresh.end();
  await other.end();
});

test("a client keeps any value, its role, and what a function of its own sets", async () => {
  const [a, b] = [await client(), await client()];
  const odd = "it's a \\ \"$1\" \u00e9";
  await b.query("CREATE ROLE reader; SET ROLE reader");
  await b.query(`SET my.own = '${odd.replaceAll("'", "''")}'; SET standard_conforming_strings = off`);
  const tokyo = "SELECT set_config('timezone', 'Asia/Tokyo', false)";
  await a.query(`CREATE FUNCTION zone() RETURNS text LANGUAGE sql AS $$${tokyo}$$`);
  await a.query("SELECT 1");
  await b.query("SELECT 1");
  await a.query("SELECT zone()");
  assert.equal(await value(b, "SHOW my.own"), odd);
  assert.equal(await value(b, "SELECT current_user"), "reader");
  assert.equal(await value(b, "SHOW timezone"), "UTC");
  assert.equal(await value(a, "SHOW timezone"), "Asia/Tokyo");
  assert.equal(await value(a, "SELECT current_user"), "postgres");
  await a.query("DROP ROLE reader");
  await a.end();
  await b.end();
});

test("settings of a transaction that was rolled back are gone", async () => {
  const [a, b] = [await client(), await client()];
  await a.query("BEGIN; SET search_path = nowhere");
  await a.query("ROLLBACK");
  await b.query("SELECT 1");
  assert.equal(await value(a, "SHOW search_path"), '"$user", public');
  await a.end();
  await b.end();
});

test("settings of the database reach new sessions, as timescaledb_pre_restore needs", async () => {
  const it = await client();
  await it.query("ALTER DATABASE market SET work_mem = '5MB'");
  const fresh = await client();
  assert.equal(await value(fresh, "SHOW work_mem"), "5MB");
  await it.query("ALTER DATABASE market RESET work_mem");
  await fresh.end();
  await it.end();
});

test("COPY goes in and out, also when the client gives up", async () => {
  const it = await client();
  await it.query("CREATE TABLE copied(n int, t text)");
  const socket = await rawClient();
  const answers = [];
  socket.on("data", (data) => answers.push(data));
  const said = () => Buffer.concat(answers).toString("latin1");
  const until = async (text) => { while (!said().includes(text)) await sleep(5); };
  socket.write(wire.query("COPY copied FROM STDIN"));
  const data = (text) => wire.message("d", Buffer.from(text));
  socket.write(Buffer.concat([data("1\tone\n2\t"), data("two\n"), wire.message("c")]));
  await until("COPY 2");
  socket.write(wire.query("COPY copied FROM STDIN"));
  socket.write(Buffer.concat([data("3\tthree\n"), wire.message("f", wire.text("changed my mind"))]));
  await until("changed my mind");
  // The extended protocol, as drivers do it: Sync stands before the data and after it.
  const parse = wire.message("P", wire.text(""), wire.text("COPY copied(n) FROM STDIN"), Buffer.alloc(2));
  const bind = wire.message("B", Buffer.alloc(8));
  const execute = wire.message("E", Buffer.alloc(5));
  socket.write(Buffer.concat([parse, bind, execute, wire.sync]));
  await until("2\0\0\0\x04G"); // BindComplete, CopyInResponse
  socket.write(Buffer.concat([wire.message("d", Buffer.from("4\n")), wire.message("c"), wire.sync]));
  await until("COPY 1");
  socket.write(wire.query("COPY (SELECT n FROM copied ORDER BY n) TO STDOUT"));
  await until("COPY 3");
  assert.match(said(), /d\0\0\0\x061\nd\0\0\0\x062\nd\0\0\0\x064\n/);
  socket.destroy();
  await assert.rejects(it.query("SELECT 1; COPY copied FROM STDIN"), { code: "0A000" });
  await it.end();
});

test("garbage ends only the connection that sent it", async () => {
  const before = await client();
  const tooShort = Buffer.from([0, 0, 0, 9, 0, 3, 0, 0, 1]);
  const greetings = [Buffer.from("GET / HTTP/1.1\r\n\r\n"), Buffer.alloc(4096), tooShort];
  for (const greeting of greetings) {
    const socket = connectSocket(server.port, "127.0.0.1");
    socket.on("error", () => {}).resume();
    socket.write(greeting);
    await Promise.race([once(socket, "close"), sleep(200)]);
    socket.destroy();
  }
  const messages = [
    Buffer.from("z\0\0\0\x04"), Buffer.from([0x51, 0x7f, 0xff, 0xff, 0xff]), Buffer.from("Q\0\0\0\0"),
    wire.message("Q", Buffer.from("no end")),
    wire.message("B", Buffer.from([0, 0, 0, 99])), wire.message("P", Buffer.from("x")), wire.message("D"),
    wire.message("E", Buffer.from([0])),
    wire.message("D", Buffer.from("Xx\0")), wire.message("d", Buffer.from("data")),
    wire.message("F", Buffer.alloc(10)), Buffer.from("Q\0\0\0\x10half"),
  ];
  for (const garbage of messages) {
    const socket = await rawClient();
    socket.resume();
    socket.write(garbage);
    await sleep(20);
    socket.destroy();
    assert.equal(await value(before, "SELECT 1"), 1, garbage.toString("latin1"));
  }
  await before.end();
});

test("a message of 16 MB passes both ways", async () => {
  const it = await client();
  const long = "x".repeat(16 * 1024 * 1024);
  assert.equal((await value(it, "SELECT $1::text", [long])).length, long.length);
  await it.end();
});

test("who waits too long for a transaction gets an error that may be tried again", async () => {
  const [holder, waiting] = [await client(), await client()];
  await holder.query("BEGIN");
  await assert.rejects(waiting.query("SELECT 1"), { code: "55P03" });
  await assert.rejects(waiting.query("SELECT $1::int", [1]), { code: "55P03" });
  await holder.query("COMMIT");
  assert.equal(await value(waiting, "SELECT $1::int", [1]), 1);
  await holder.end();
  await waiting.end();
});

test("temporary tables go with their client", async () => {
  const [a, b] = [await client(), await client()];
  await a.query("CREATE TEMPORARY TABLE passing(n int)");
  await a.end();
  await sleep(50);
  await assert.rejects(b.query("SELECT * FROM passing"), { code: "42P01" });
  await b.end();
});

for (const signal of ["SIGTERM", "SIGKILL"]) {
  test(`committed data survives ${signal}`, async () => {
    const data = join(folder, `data-${signal}`);
    let own = await start("--data", data);
    let it = await client({ port: own.port });
    await it.query("CREATE EXTENSION timescaledb");
    await it.query("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n");
    await it.query("BEGIN");
    await it.query("INSERT INTO kept VALUES (0)");
    if (signal === "SIGTERM") setTimeout(() => it.query("ROLLBACK").catch(() => {}), 200);
    await stop(own, signal);
    own = await start("--data", data);
    it = await client({ port: own.port });
    assert.equal(await value(it, "SELECT count(*)::int FROM kept"), 1000);
    await it.end();
    assert.equal(await stop(own), 0);
  });
}

test("TimescaleDB is whole again after a restart", async () => {
  const data = join(folder, "data-restarted");
  let own = await start("--data", data);
  let it = await client({ port: own.port });
  await it.query(`
    CREATE EXTENSION timescaledb;
    CREATE TABLE ticks(time timestamptz NOT NULL, price int);
    SELECT create_hypertable('ticks', 'time');
    INSERT INTO ticks VALUES ('2020-01-01', 1), ('2020-01-01 00:30', 3);
    CREATE MATERIALIZED VIEW hours WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
      SELECT time_bucket('1 hour', time) AS hour, max(price) AS high FROM ticks GROUP BY 1 WITH NO DATA;
    ALTER TABLE ticks SET (timescaledb.compress);
    SELECT add_compression_policy('ticks', INTERVAL '1 day');`);
  const job = await value(it, "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = 'ticks'");
  await it.end();
  await stop(own);
  own = await start("--data", data);
  it = await client({ port: own.port });
  assert.equal(await value(it, "SELECT high FROM hours"), 3);
  await it.query("CALL refresh_continuous_aggregate('hours', NULL, NULL)");
  await it.query(`CALL run_job(${job})`);
  await it.query("INSERT INTO ticks VALUES ('2020-01-01 00:45', 7)");
  assert.equal(await value(it, "SELECT max(price) FROM ticks"), 7);
  await it.end();
  assert.equal(await stop(own), 0);
});
