#!/usr/bin/env node
// TimescaleDB Community on a TCP port, from WebAssembly: for development and tests on a machine without containers.
//
//   node server.mjs --data DIR | --memory  [--port N] [--port-file FILE] [--cache DIR] [--lock-timeout MS]
//                   [--template FILE] [--dump FILE]
//
// --dump writes the whole database to FILE on SIGTERM.
// --template starts a new database with the content of such a file.
//
// It is one PostgreSQL session in one process. So: one database (`market`), one transaction at a time (others
// wait, at most --lock-timeout), no background workers, no replication, no cancel, no statement_timeout, no LISTEN,
// and advisory locks don't keep clients apart. The front serves loopback only and asks for no password.
// `current_setting('embedded.single_session', true)` is 'on' here and nowhere else.
//
// Durability: every write goes to the operating system before its commit is answered, but nothing is fsynced. A
// killed process loses nothing that was committed (recovery replays the WAL); a machine that loses power may.

import { existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Engine } from "./engine.mjs";
import { Connection } from "./front.mjs";

const DRAIN_MS = 5000;
const here = dirname(fileURLToPath(import.meta.url));

const { values: options } = parseArgs({
  options: {
    data: { type: "string" },
    memory: { type: "boolean", default: false },
    port: { type: "string", default: "0" },
    "port-file": { type: "string" },
    cache: { type: "string", default: process.env.DEV_CACHE_DIR ?? resolve(here, "../../.dev/cache") },
    "lock-timeout": { type: "string", default: "30000" },
    template: { type: "string" },
    dump: { type: "string" },
  },
});
if (Boolean(options.data) === options.memory) {
  console.error("give either --data DIR or --memory");
  process.exit(64);
}

mkdirSync(options.cache, { recursive: true });
const engine = await Engine.open({
  dataDir: options.data,
  isNew: !options.data || !existsSync(join(options.data, "PG_VERSION")),
  cacheDir: options.cache,
  templateFile: options.template,
  lockTimeoutMs: Number(options["lock-timeout"]),
});
const parameters = await engine.reportedParameters();
const connections = new Map();

const server = createServer({ noDelay: true }, (socket) => {
  socket.on("error", () => {}); // a client that goes is seen by its reader
  const connection = new Connection(socket, engine, parameters);
  const served = connection.serve().catch(fail).finally(() => connections.delete(connection));
  connections.set(connection, { socket, served });
});
server.listen(Number(options.port), "127.0.0.1", () => {
  const { port } = server.address();
  if (options["port-file"]) {
    writeFileSync(`${options["port-file"]}.new`, `${port}\n`);
    renameSync(`${options["port-file"]}.new`, options["port-file"]);
  }
  console.log(`listening on 127.0.0.1:${port}`);
});
server.on("error", fail);
process.once("SIGTERM", drain);
process.once("SIGINT", drain);

/** Lets transactions finish, then closes the data directory in good order. */
async function drain() {
  server.close();
  const served = [...connections.values()].map((entry) => entry.served);
  for (const connection of connections.keys()) connection.stop();
  const deadline = setTimeout(() => connections.forEach(({ socket }) => socket.destroy()), DRAIN_MS);
  await Promise.all(served);
  clearTimeout(deadline);
  if (options.dump) await engine.dump(options.dump);
  await engine.close();
  process.exit(0);
}

function fail(error) {
  console.error(error.cause ? `${error.message}: ${error.cause.message}` : error.message);
  process.exit(1);
}
