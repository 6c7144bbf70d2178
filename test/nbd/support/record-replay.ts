/**
 * Replay of a recorded client: its bytes are parsed here (by the tests' own idea of the protocol), so that for every option
 * and request a reply of the right kind can be demanded, and the outcome told in one line each:
 *
 *   flags 3 / SET_META_CONTEXT: ACK base:allocation / GO disk: ACK 1048576 extended / READ 0 4096: ok / DISC: closed
 */
import type { BlockDevice } from '../../../src/device/block-device.js'
import { MemoryDisk } from '../../../src/device/memory-disk.js'
import { Session } from './session.js'
import type { Context, ExportFacts, Peer } from './peer.js'
import { ensure } from './violation.js'
import { CMD, EXT_REQUEST, FLAG, IHAVEOPT, MIB, OPT, pattern, REP, REQUEST, type Mode } from './wire.js'

/** A fresh disk of 1 MiB called `disk`: data at [0, 128 KiB) and [512 KiB, 516 KiB), the rest a hole. */
export function recordingExports(): Record<string, BlockDevice> {
  const disk = new MemoryDisk(MIB)
  void disk.write(0, 128 * 1024, pattern(0, 128 * 1024), 0)
  void disk.write(512 * 1024, 4096, pattern(0, 4096), 0)
  return { disk }
}

export interface ClientOption { readonly number: number, readonly data: Buffer }
export interface ClientRequest {
  readonly type: number
  readonly flags: number
  readonly cookie: bigint
  readonly offset: bigint
  readonly length: bigint
  readonly payload: Buffer
  /** Header and payload as they were sent. */
  readonly bytes: Buffer
}
export interface ClientStream {
  readonly flags: number
  /** Where the handshake ends. */
  readonly handshakeBytes: number
  readonly options: readonly ClientOption[]
  readonly mode: Mode
  readonly requests: readonly ClientRequest[]
}

const nameOf = (table: Readonly<Record<string, number>>, value: number): string =>
  Object.entries(table).find(([, number]) => number === value)?.[0] ?? String(value)

/** Takes a client's whole stream apart; assumes that every option it sends is accepted. */
export function parseClient(bytes: Buffer): ClientStream {
  let at = 4
  let mode: Mode = 'simple'
  const options: ClientOption[] = []
  const requests: ClientRequest[] = []
  for (let done = false; at < bytes.length && !done;) {
    ensure(bytes.readBigUInt64BE(at) === IHAVEOPT, `no option at byte ${at}`)
    const number = bytes.readUInt32BE(at + 8)
    const data = bytes.subarray(at + 16, at + 16 + bytes.readUInt32BE(at + 12))
    options.push({ number, data })
    at += 16 + data.length
    if (number === OPT.EXTENDED_HEADERS) mode = 'extended'
    if (number === OPT.STRUCTURED_REPLY && mode === 'simple') mode = 'structured'
    done = number === OPT.GO || number === OPT.EXPORT_NAME || number === OPT.ABORT
  }
  const handshakeBytes = at
  while (at < bytes.length) {
    const extended = mode === 'extended'
    ensure(bytes.readUInt32BE(at) === (extended ? EXT_REQUEST : REQUEST), `no request at byte ${at}`)
    const flags = bytes.readUInt16BE(at + 4)
    const type = bytes.readUInt16BE(at + 6)
    const length = extended ? bytes.readBigUInt64BE(at + 24) : BigInt(bytes.readUInt32BE(at + 24))
    const start = at + (extended ? 32 : 28)
    const payload = type === CMD.WRITE || (extended && flags & FLAG.PAYLOAD_LEN) ? bytes.subarray(start,
      start + Number(length)) : Buffer.alloc(0)
    const end = start + payload.length
    const [cookie, offset] = [bytes.readBigUInt64BE(at + 8), bytes.readBigUInt64BE(at + 16)]
    requests.push({ type, flags, length, payload, cookie, offset, bytes: bytes.subarray(at, end) })
    at = end
  }
  return { flags: bytes.readUInt32BE(0), options, mode, requests, handshakeBytes }
}

/** Sends a recorded handshake in one go, its requests as early as their cookies allow, and demands every reply. */
export async function replay(peer: Peer, bytes: Buffer): Promise<string[]> {
  const stream = parseClient(bytes)
  await peer.hello()
  peer.clientFlags = stream.flags
  peer.send(bytes.subarray(0, stream.handshakeBytes))
  const lines = [`flags ${stream.flags}`]
  let facts: ExportFacts | undefined
  let contexts: Context[] = []
  for (const { number, data } of stream.options) {
    const outcome = await expectOption(peer, number, data)
    lines.push(`${nameOf(OPT, number)}${outcome.line}`)
    if (number === OPT.GO || number === OPT.EXPORT_NAME) facts = outcome.facts
    if (number === OPT.SET_META_CONTEXT) contexts = outcome.contexts ?? []
  }
  if (!facts) return lines
  lines[lines.length - 1] += ` ${stream.mode}`
  return [...lines, ...await replayRequests(new Session(peer, stream.mode, facts, contexts), stream)]
}

interface Outcome { readonly line: string, readonly facts?: ExportFacts, readonly contexts?: Context[] }

async function expectOption(peer: Peer, number: number, data: Buffer): Promise<Outcome> {
  if (number === OPT.EXPORT_NAME) {
    const facts = await peer.readExportName()
    return { line: ` ${data.toString()}: ${facts.size}`, facts }
  }
  const replies = await peer.replies(number)
  const final = nameOf(REP, replies.at(-1)!.type)
  if (number === OPT.INFO || number === OPT.GO) {
    const name = data.subarray(4, 4 + data.readUInt32BE(0)).toString()
    const { facts } = peer.infoAnswer(number, replies)
    return { line: ` ${name}: ${final}${facts ? ` ${facts.size}` : ''}`, ...facts && { facts } }
  }
  if (number === OPT.SET_META_CONTEXT || number === OPT.LIST_META_CONTEXT) {
    const contexts = peer.contextsOf(number, replies)
    return { line: `: ${[final, ...contexts.map(context => context.name)].join(' ')}`, contexts }
  }
  return { line: `: ${final}` }
}

async function replayRequests(session: Session, stream: ClientStream): Promise<string[]> {
  const inFlight = new Map<bigint, Promise<unknown>>()
  const lines: Promise<string>[] = []
  for (const request of stream.requests) {
    const { type, flags, offset, length, cookie, bytes } = request
    if (type === CMD.DISC) {
      session.stream.socket.write(bytes)
      continue
    }
    // qemu uses a cookie again as soon as its reply is there.
    await inFlight.get(cookie)
    const { reply } = session.expect(request)
    session.stream.socket.write(bytes)
    inFlight.set(cookie, reply)
    lines.push(reply.then(({ error }) =>
      `${nameOf(CMD, type)}${flags ? ` flags ${flags}` : ''} ${offset} ${length}: ${error === 0 ? 'ok' : `errno ${error}`}`))
  }
  const told = await Promise.all(lines)
  if (!stream.requests.some(request => request.type === CMD.DISC)) return told
  await session.closed()
  return [...told, 'DISC: closed']
}
