// The PostgreSQL wire protocol (version 3): frames in, messages out. No state, no decisions.

/** Frames larger than this are refused: the engine has 4 GB of address space in all. */
const MAX_FRAME_BYTES = 256 * 1024 * 1024;
const MAX_STARTUP_BYTES = 10_000;

/** What a client may send once it is connected; everything else is garbage. */
const FRONTEND_TYPES = "BCDEFHPQSXcdfp";

/** Codes that stand where a start-up packet has its protocol version. */
export const CANCEL_REQUEST = 80877102;
export const SSL_REQUEST = 80877103;
export const GSS_REQUEST = 80877104;
export const PROTOCOL_3_0 = 196608;

export class ProtocolError extends Error {}

/** Reads whole frames from a socket. A frame that large and slow is only joined once, when complete. */
export class FrameReader {
  #source;
  #chunks = [];
  #size = 0;

  constructor(socket) {
    this.#source = socket[Symbol.asyncIterator]();
  }

  /** `{ code, body }` of a start-up packet, undefined at the end of the stream. */
  async startup() {
    const head = await this.#take(8);
    if (!head) return undefined;
    const length = head.readInt32BE(0);
    if (length < 8 || length > MAX_STARTUP_BYTES) throw new ProtocolError("invalid length of startup packet");
    const body = await this.#take(length - 8);
    return body && { code: head.readInt32BE(4), body };
  }

  /** `{ type, body }` of the next message, undefined at the end of the stream. */
  async next() {
    const head = await this.#take(5);
    if (!head) return undefined;
    const type = String.fromCharCode(head[0]);
    const length = head.readInt32BE(1);
    if (!FRONTEND_TYPES.includes(type)) throw new ProtocolError(`invalid frontend message type ${head[0]}`);
    if (length < 4 || length > MAX_FRAME_BYTES) throw new ProtocolError("invalid message length");
    const body = await this.#take(length - 4);
    return body && { type, body };
  }

  async #take(count) {
    while (this.#size < count) {
      const { value, done } = await this.#source.next();
      if (done) return undefined;
      this.#chunks.push(value);
      this.#size += value.length;
    }
    const joined = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
    this.#size -= count;
    this.#chunks = this.#size ? [joined.subarray(count)] : [];
    return joined.subarray(0, count);
  }
}

/** The text up to the next NUL, one character a byte (so that it survives the way back unchanged). */
export function cstring(body, start = 0) {
  const end = body.indexOf(0, start);
  if (end < 0) throw new ProtocolError("invalid string in message");
  return { text: body.toString("latin1", start, end), end: end + 1 };
}

/** `key -> value` of a start-up packet. */
export function startupParameters(body) {
  const parameters = new Map();
  for (let at = 0; at < body.length && body[at] !== 0; ) {
    const key = cstring(body, at);
    const value = cstring(body, key.end);
    parameters.set(key.text, Buffer.from(value.text, "latin1").toString());
    at = value.end;
  }
  return parameters;
}

export const text = (value) => Buffer.from(`${value}\0`);
export const bytes = (value) => Buffer.from(`${value}\0`, "latin1");
const int32 = (value) => {
  const buffer = Buffer.alloc(4);
  buffer.writeInt32BE(value);
  return buffer;
};

export function message(type, ...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 4);
  return Buffer.concat([Buffer.from(type), int32(length), ...parts]);
}

export const query = (sql) => message("Q", text(sql));
export const sync = message("S");
export const closeStatement = (name) => message("C", Buffer.from("S"), bytes(name));

export const authenticationOk = message("R", int32(0));
export const parameterStatus = (name, value) => message("S", text(name), text(value));
export const backendKeyData = (id) => message("K", int32(id), int32(0));
export const readyForQuery = (status) => message("Z", Buffer.from(status));
export const commandComplete = (tag) => message("C", text(tag));
/** No column formats: clients that send COPY data know what they send. */
export const copyInResponse = (binary) => message("G", Buffer.from([binary ? 1 : 0, 0, 0]));

export function errorResponse(severity, code, reason) {
  const fields = [`S${severity}`, `V${severity}`, `C${code}`, `M${reason}`];
  return message("E", ...fields.map(text), Buffer.from([0]));
}
