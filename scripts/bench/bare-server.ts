/**
 * A server that does nothing but serve one file, to tell what plain Node costs on a machine: requests are decoded, pread or
 * pwritten on the spot and answered, a batch in as few writes as nbdelta. Codec, socket and spinning are nbdelta's; snapshots,
 * maps, locks, ordering, limits, errors and slow disks are lacking. What it does not come near, no server on one thread of Node
 * reaches on that machine.
 *
 *   node dist/scripts/bench/bare-server.js FILE SOCKET | PORT
 *
 * Limits: commands but READ, WRITE, FLUSH and DISC are errors; requests of at most 8 MiB; a client that does not read takes memory.
 */
import { fdatasyncSync, fstatSync, openSync, readSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { COMMAND, HANDSHAKE_FLAG, OPTION, REPLY, SIZE, TRANSMISSION_FLAG } from '../../native-free/nbd/constants.js'
import {
  decodeOptionHeader, encodeExportNameReply, encodeHello, encodeInfoExport, encodeOptionReply,
} from '../../native-free/nbd/handshake.js'
import { decodeRequest, putSimpleReply, Request } from '../../native-free/nbd/transmission.js'
import { Spinner } from '../../src/nbd/spinner.js'
import { openWire } from '../../src/nbd/wire.js'
import type { Reader, Wire } from '../../src/nbd/wire.js'

const INBOX_BYTES = 9 * 2 ** 20
const OUTBOX_BYTES = 16 * 2 ** 20
const EINVAL = 22
const FLAGS = TRANSMISSION_FLAG.hasFlags | TRANSMISSION_FLAG.sendFlush | TRANSMISSION_FLAG.canMultiConn
/** A batch leaves in three parts, as nbdelta's do. */
const PARTS = 3

const [file, place] = process.argv.slice(2) as [string, string]
const fd = openSync(file, 'r+')
const sizeBytes = fstatSync(fd).size
const spinner = new Spinner(true)

class Client implements Reader {
  readonly #wire: Wire
  readonly #request = new Request()
  readonly #in = Buffer.allocUnsafe(INBOX_BYTES)
  readonly #view = new DataView(this.#in.buffer, this.#in.byteOffset, INBOX_BYTES)
  readonly #out = Buffer.allocUnsafe(OUTBOX_BYTES)
  readonly #outView = new DataView(this.#out.buffer, this.#out.byteOffset, OUTBOX_BYTES)
  #filled = 0
  #pos = 0
  #at = 0
  #serve: () => number = () => this.#begin()
  #batch = PARTS

  constructor(accepted: Socket) {
    this.#wire = openWire(accepted, this, true)
    this.#wire.socket.on('error', () => this.#wire.socket.destroy()).on('end', () => this.#wire.socket.destroy())
    this.#wire.socket.write(encodeHello())
  }

  space(): Buffer { return this.#in.subarray(this.#filled) }

  arrived(count: number): boolean {
    this.#filled += count
    const served = this.#serve()
    this.#in.copyWithin(0, this.#pos, this.#filled)
    this.#filled -= this.#pos
    this.#pos = 0
    this.#push()
    if (served > 0) spinner.served(served, 0)
    return true
  }

  /** Flags of the client; then options, until one of them begins the transmission. */
  #begin(): number {
    if (this.#filled < SIZE.clientFlags) return 0
    const padded = (this.#view.getUint32(0) & HANDSHAKE_FLAG.noZeroes) === 0
    this.#pos = SIZE.clientFlags
    this.#serve = () => this.#options(padded)
    return this.#options(padded)
  }

  #options(padded: boolean): number {
    for (;;) {
      const there = this.#filled - this.#pos >= SIZE.optionHeader
      const header = there ? decodeOptionHeader(this.#in, this.#pos) : undefined
      if (!header || this.#filled - this.#pos < SIZE.optionHeader + header.length) return 0
      this.#pos += SIZE.optionHeader + header.length
      const { socket } = this.#wire
      const { option } = header
      if (option === OPTION.exportName) socket.write(encodeExportNameReply(sizeBytes, FLAGS, padded))
      else if (option === OPTION.go) {
        socket.write(encodeOptionReply(option, REPLY.info, encodeInfoExport(sizeBytes, FLAGS)))
        socket.write(encodeOptionReply(option, REPLY.ack))
      } else {
        socket.write(encodeOptionReply(option, REPLY.errUnsup))
        continue
      }
      this.#serve = () => this.#transmit()
      return this.#transmit()
    }
  }

  #transmit(): number {
    const part = spinner.alone(this) ? Math.ceil(this.#batch / PARTS) : Infinity
    let requests = 0
    while (this.#filled - this.#pos >= SIZE.request && this.#next()) if (++requests % part === 0) this.#push()
    this.#batch = Math.max(PARTS, requests)
    return requests
  }

  /** False: not all of it is there. */
  #next(): boolean {
    const request = this.#request
    if (!decodeRequest(this.#view, this.#pos, request)) throw new Error('no request')
    const { type, offset, length } = request
    const start = this.#pos + SIZE.request
    const payload = type === COMMAND.write ? length : 0
    if (this.#filled < start + payload) return false
    this.#pos = start + payload
    if (type === COMMAND.disconnect) {
      this.#wire.socket.end()
      return true
    }
    if (this.#at + SIZE.simpleReply + length > OUTBOX_BYTES) this.#push()
    let error = 0
    if (type === COMMAND.read) readSync(fd, this.#out, this.#at + SIZE.simpleReply, length, offset)
    else if (type === COMMAND.write) writeSync(fd, this.#in, start, length, offset)
    else if (type === COMMAND.flush) fdatasyncSync(fd)
    else error = EINVAL
    putSimpleReply(this.#outView, this.#at, error, request)
    this.#at += SIZE.simpleReply + (type === COMMAND.read ? length : 0)
    return true
  }

  /** What the kernel does not take at once is copied: the buffer is filled anew, and stays in the processor's cache. */
  #push(): void {
    const { socket } = this.#wire
    if (this.#at === 0) return
    const sent = socket.writableLength === 0 ? this.#wire.writeNow(this.#out, 0, this.#at) : 0
    if (sent < this.#at) socket.write(Buffer.from(this.#out.subarray(sent, this.#at)))
    this.#at = 0
  }
}

process.on('SIGTERM', () => process.exit(0))
createServer({ pauseOnConnect: true, noDelay: true }, socket => new Client(socket))
  .listen(/^\d+$/.test(place) ? { host: '127.0.0.1', port: Number(place) } : { path: place })
