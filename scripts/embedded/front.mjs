// One client: answers what concerns the connection, and passes the rest to the engine.
//
// Statement and portal names get a prefix per client, because the engine has one name space.
// `COPY … FROM STDIN` becomes `COPY … FROM '/dev/blob'` once all its data is here.

import { once } from "node:events";
import { DATABASE, EngineFailure, LockTimeout } from "./engine.mjs";
import * as wire from "./wire.mjs";

/** Only the beginning of a statement is looked at; the data of a long INSERT is of no interest. */
const HEAD_BYTES = 64 * 1024;

const COPY_FROM_STDIN = /^((?:\s|--[^\n]*\n|\/\*.*?\*\/)*copy\s+(?!\()[^;']*?\sfrom\s+)stdin\b/is;
/** The same behind another statement: the engine would wait for data that it has no way to get, and end. */
const HIDDEN_COPY_FROM_STDIN = /\bcopy\s+(?!\()[^;']*?\sfrom\s+stdin\b/i;
const SQL_STATEMENT_NAME =
  /^(\s*(?:prepare|execute|deallocate(?:\s+prepare)?)\s+)(?!all\b|transaction\b|prepare\b)("?)/i;
const ALL = /^\s*(discard|deallocate|reset)\s+all\s*;?\s*$/i;
/** A simple query with this changes settings once; whatever keeps the text may do so again and again. */
const TOUCHES_SETTINGS = /\bset_config\b|timescaledb_(?:pre|post)_restore/i;
const KEPT = /\b(?:create|prepare)\b/i;
const PLACEHOLDER = /\b(?:set\s+(?:session\s+)?|set_config\s*\(\s*')([a-z_]\w*(?:\.[a-z_]\w*)+)/gi;
const TEMPORARY = /\btemp(?:orary)?\b/i;
const ADVISORY_LOCK = /\bpg_(?:try_)?advisory_lock/i;
const SETTINGS_TAGS = new Set(["SET", "RESET", "DISCARD ALL", "DO"]);

let connections = 0;

export class Connection {
  // What the engine needs to know about a client.
  settings = null;
  requestedSettings = new Map();
  settingsTouched = false;
  placeholders = new Set();
  usedStatements = false;
  usedTemporary = false;
  usedAdvisoryLocks = false;

  #id = ++connections;
  prefix = `c${this.#id}_`;
  #socket;
  #engine;
  #parameters;
  #reader;
  #stopping = false;
  /** Between a message and the ReadyForQuery that ends its sequence, or in a transaction. */
  #busy = false;
  #status = "I";
  /** An error came and the engine ignores everything up to Sync. */
  #skipping = false;
  /** As above, but the engine doesn't know: the front made the error. */
  #refusing = false;
  #alwaysTouchesSettings = false;
  #copyStatements = new Map();
  #copyPortals = new Map();

  constructor(socket, engine, parameters) {
    this.#socket = socket;
    this.#engine = engine;
    this.#parameters = parameters;
    this.#reader = new wire.FrameReader(socket);
  }

  /** Serves the client until it goes. Rejects only when the engine can't go on. */
  async serve() {
    try {
      if (await this.#startUp()) {
        for (let frame; (frame = await this.#reader.next()) && frame.type !== "X"; ) await this.#handle(frame);
      }
    } catch (error) {
      if (error instanceof EngineFailure) throw error;
      // An error without a severity: the client is gone.
      const code = error instanceof wire.ProtocolError ? "08P01" : error.severity && error.code;
      if (code) this.#socket.write(wire.errorResponse("FATAL", code, error.message));
    } finally {
      if (this.settings) await this.#engine.forget(this, this.#status !== "I");
      else this.#engine.release(this);
      this.#socket.end();
    }
  }

  /** Ends the connection now, or as soon as its transaction is over. */
  stop() {
    this.#stopping = true;
    if (this.#busy) return;
    this.#socket.end(wire.errorResponse("FATAL", "57P01", "terminating connection due to administrator command"));
    this.#socket.destroySoon();
  }

  async #startUp() {
    for (;;) {
      const packet = await this.#reader.startup();
      if (!packet || packet.code === wire.CANCEL_REQUEST) return false; // what runs can't be interrupted
      if (packet.code === wire.SSL_REQUEST || packet.code === wire.GSS_REQUEST) {
        this.#socket.write("N");
        continue;
      }
      if (packet.code !== wire.PROTOCOL_3_0) throw new wire.ProtocolError("unsupported frontend protocol");
      return this.#welcome(wire.startupParameters(packet.body));
    }
  }

  #welcome(requested) {
    const database = requested.get("database") ?? requested.get("user");
    if (database !== DATABASE || requested.has("replication")) {
      const reason = requested.has("replication")
        ? "the embedded server has no replication"
        : `database "${database}" does not exist; the embedded server has one database, "${DATABASE}"`;
      this.#socket.write(wire.errorResponse("FATAL", "3D000", reason));
      return false;
    }
    const reported = new Map(this.#parameters);
    for (const [name, value] of requestedSettings(requested)) {
      this.requestedSettings.set(name, value);
      for (const key of reported.keys()) if (key.toLowerCase() === name.toLowerCase()) reported.set(key, value);
    }
    reported.set("application_name", requested.get("application_name") ?? "");
    const answer = [wire.authenticationOk];
    for (const [name, value] of reported) answer.push(wire.parameterStatus(name, value));
    answer.push(wire.backendKeyData(this.#id), wire.readyForQuery("I"));
    this.#socket.write(Buffer.concat(answer));
    return true;
  }

  async #handle({ type, body }) {
    if ("dcf".includes(type)) return; // COPY data after an error, to be ignored
    if (this.#refusing) {
      if (type === "S") await this.#endRefusal();
      return;
    }
    this.#busy = true;
    try {
      await this.#engine.acquire(this);
    } catch (error) {
      if (!(error instanceof LockTimeout)) throw error;
      return this.#refuse(type, "55P03", error.message);
    }
    if (type === "Q") await this.#simpleQuery(body);
    else if (type === "F") await this.#refuse(type, "0A000", "function calls by protocol message are not supported");
    else await this.#extended(type, body);
  }

  async #simpleQuery(body) {
    const sql = this.#inspect(wire.cstring(body).text, "simple");
    const all = ALL.exec(sql);
    if (all) return this.#all(all[1].toUpperCase());
    const copy = copyFromBlob(sql);
    if (HIDDEN_COPY_FROM_STDIN.test(copy?.sql ?? sql)) {
      const reason = "the embedded server takes COPY FROM STDIN only as the first statement of a query";
      return this.#refuse("Q", "0A000", reason);
    }
    if (!copy) return this.#forward(wire.message("Q", wire.bytes(sql)));
    const { blob, failure } = await this.#receiveCopyData(copy.binary);
    await this.#forward(wire.message("Q", failure ?? wire.bytes(copy.sql)), blob);
  }

  /** DISCARD ALL, DEALLOCATE ALL and RESET ALL of this client; the state of other clients stays. */
  async #all(command) {
    if (command !== "RESET") await this.#engine.dropStatements(this);
    if (command !== "DEALLOCATE") await this.#engine.resetSettings(this);
    const tag = command === "RESET" ? "RESET" : `${command} ALL`;
    await this.#send(Buffer.concat([wire.commandComplete(tag), wire.readyForQuery(this.#status)]));
    this.#afterReady();
  }

  async #extended(type, body) {
    if (type === "P") return this.#parse(body);
    if (type === "B") {
      const portal = wire.cstring(body);
      const statement = wire.cstring(body, portal.end);
      this.#copyPortals.set(portal.text, this.#copyStatements.get(statement.text));
      const names = [wire.bytes(this.prefix + portal.text), wire.bytes(this.prefix + statement.text)];
      // The prefix makes the unnamed portal a named one, which is not replaced by the next Bind.
      if (portal.text === "") await this.#runSilently(wire.message("C", Buffer.from("P"), names[0]));
      return this.#forward(wire.message("B", ...names, body.subarray(statement.end)));
    }
    if (type === "D" || type === "C") {
      const name = wire.cstring(body, 1);
      return this.#forward(wire.message(type, body.subarray(0, 1), wire.bytes(this.prefix + name.text)));
    }
    if (type === "E") {
      const portal = wire.cstring(body);
      const frame = wire.message("E", wire.bytes(this.prefix + portal.text), body.subarray(portal.end));
      const copy = this.#copyPortals.get(portal.text);
      if (!copy || this.#skipping) return this.#forward(frame);
      const { blob, failure } = await this.#receiveCopyData(copy.binary);
      return failure ? this.#failCopy(failure) : this.#forward(frame, blob);
    }
    if (type === "S") return this.#forward(wire.sync);
    if (type === "H") return; // answers are never held back
    throw new wire.ProtocolError(`unexpected message ${type}`);
  }

  async #parse(body) {
    const name = wire.cstring(body);
    const statement = wire.cstring(body, name.end);
    const sql = this.#inspect(statement.text);
    const copy = copyFromBlob(sql);
    this.#copyStatements.set(name.text, copy);
    this.usedStatements = true;
    const prefixed = wire.bytes(this.prefix + name.text);
    // As above: only the unnamed statement may be replaced without Close.
    if (name.text === "") await this.#runSilently(wire.message("C", Buffer.from("S"), prefixed));
    await this.#forward(wire.message("P", prefixed, wire.bytes(copy?.sql ?? sql), body.subarray(statement.end)));
  }

  /** Notes what a statement may leave behind in the session, and gives the names in it the prefix. */
  #inspect(sql, kind) {
    const head = sql.slice(0, HEAD_BYTES);
    if (TOUCHES_SETTINGS.test(head)) {
      if (kind !== "simple" || KEPT.test(head)) this.#alwaysTouchesSettings = true;
      this.settingsTouched = true;
    }
    for (const [, name] of head.matchAll(PLACEHOLDER)) this.placeholders.add(name.toLowerCase());
    if (TEMPORARY.test(head)) this.usedTemporary = true;
    if (ADVISORY_LOCK.test(head)) this.usedAdvisoryLocks = true;
    if (!SQL_STATEMENT_NAME.test(head)) return sql;
    this.usedStatements = true;
    return sql.replace(SQL_STATEMENT_NAME, `$1$2${this.prefix}`);
  }

  async #receiveCopyData(binary) {
    await this.#send(wire.copyInResponse(binary));
    const chunks = [];
    for (let frame; (frame = await this.#reader.next()); ) {
      if (frame.type === "d") chunks.push(frame.body);
      else if (frame.type === "c") return { blob: new Blob(chunks) };
      else if (frame.type === "f") return { failure: raise(wire.cstring(frame.body).text) };
      else if (!"HS".includes(frame.type)) throw new wire.ProtocolError("unexpected message during COPY");
    }
    throw new wire.ProtocolError("connection closed during COPY");
  }

  /** CopyFail in the extended protocol: let the engine abort, tell the client once, wait for its Sync. */
  async #failCopy(failure) {
    const { messages } = await this.#engine.run(wire.message("Q", failure));
    this.#status = statusIn(messages) ?? this.#status;
    await this.#refuse("E", "57014", "COPY from stdin failed");
  }

  async #refuse(type, code, reason) {
    await this.#send(wire.errorResponse("ERROR", code, reason));
    this.#refusing = true;
    if (type === "Q" || type === "F" || type === "S") await this.#endRefusal();
  }

  async #endRefusal() {
    this.#refusing = false;
    await this.#send(wire.readyForQuery(this.#status));
    this.#afterReady();
  }

  async #runSilently(frame) {
    if (!this.#skipping) await this.#engine.run(frame);
  }

  async #forward(frame, blob) {
    const { data, messages } = await this.#engine.run(frame, blob);
    const status = statusIn(messages);
    const isSetting = ({ name, text }) => name === "commandComplete" && SETTINGS_TAGS.has(text);
    if (this.#alwaysTouchesSettings || messages.some(isSetting)) {
      this.settingsTouched = true;
    }
    if (messages.some(({ name }) => name === "error")) this.#skipping = true;
    if (status) {
      this.#status = status;
      this.#skipping = false;
      this.#afterReady();
    }
    await this.#send(data);
  }

  #afterReady() {
    if (this.#status !== "I") return;
    this.#busy = false;
    this.#engine.release(this);
    if (this.#stopping) setImmediate(() => this.stop());
  }

  async #send(data) {
    if (this.#socket.destroyed || this.#socket.write(data)) return;
    const gone = new AbortController();
    this.#socket.once("close", () => gone.abort());
    await once(this.#socket, "drain", { signal: gone.signal }).catch(() => {});
  }
}

function statusIn(messages) {
  return messages.findLast(({ name }) => name === "readyForQuery")?.status;
}

function copyFromBlob(sql) {
  if (!COPY_FROM_STDIN.test(sql.slice(0, HEAD_BYTES))) return undefined;
  return { sql: sql.replace(COPY_FROM_STDIN, "$1'/dev/blob'"), binary: /\bbinary\b/i.test(sql) };
}

function raise(reason) {
  const quoted = `COPY from stdin failed: ${reason}`.replaceAll("'", "''").replaceAll("$", "");
  return wire.bytes(`DO $copy$ BEGIN RAISE EXCEPTION USING ERRCODE = '57014', MESSAGE = '${quoted}'; END $copy$`);
}

/** Settings in a start-up packet, also those in `options` as `-c name=value` or `--name=value`. */
function requestedSettings(requested) {
  const ignored = new Set(["user", "database", "application_name", "options", "client_encoding", "replication"]);
  const settings = [...requested].filter(([name]) => !ignored.has(name) && !name.startsWith("_pq_."));
  const options = requested.get("options") ?? "";
  for (const [, name, value] of options.matchAll(/(?:-c\s*|--)([\w.-]+)=((?:\\.|\S)*)/g)) {
    settings.push([name.replaceAll("-", "_"), value.replace(/\\(.)/g, "$1")]);
  }
  return settings;
}
