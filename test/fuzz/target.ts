/**
 * The server under fuzz and everything that is asked of it afterwards. In this process, so that no exception goes unseen.
 *
 *   disk, late, block   what mutants may write to (late: completes in later turns of the event loop)
 *   ro                  must never change          guard-…   what the good client uses; no mutant knows its name
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { createServer, type NbdServer } from '../../src/nbd/server.js'
import { alteredDisk } from '../nbd/support/altered-disk.js'
import { serialDisk } from '../nbd/support/serial-disk.js'
import { attach } from '../nbd/support/session.js'
import { ensure } from '../nbd/support/violation.js'
import { MODES, pattern } from '../nbd/support/wire.js'
import { FUZZ_BYTES } from './corpus.js'

const GUARD = 'guard-5d1c7a90'
const SETTLE_MS = 5000

export class Target {
  readonly address: { path: string }
  readonly server: NbdServer
  readonly #folder: string
  #round = 0

  private constructor(server: NbdServer, folder: string) {
    this.server = server
    this.#folder = folder
    this.address = { path: join(folder, 'socket') }
  }

  static async start(): Promise<Target> {
    const folder = mkdtempSync(join(tmpdir(), 'nbdelta-fuzz-'))
    const disk = new MemoryDisk(FUZZ_BYTES)
    const slow = new MemoryDisk(FUZZ_BYTES)
    const later = <A extends unknown[]>(work: (...args: A) => void) => (...args: A): Promise<void> =>
      new Promise(resolve => { setImmediate(() => { work(...args); resolve() }) })
    const late = serialDisk(alteredDisk(slow, {
      read: later((offset, length, into, at) => { void slow.read(offset, length, into, at) }),
      write: later((offset, length, from, at) => { void slow.write(offset, length, from, at) }),
      zero: later((offset, length, mode) => { void slow.zero(offset, length, mode) }),
      flush: later(() => undefined),
    }))
    const server = await createServer({
      exports: {
        disk, late, ro: MemoryDisk.from(pattern(0, FUZZ_BYTES, 2)).fork({ readOnly: true }), [GUARD]: new MemoryDisk(FUZZ_BYTES),
        block: new MemoryDisk(FUZZ_BYTES, { blockSizes: { minimum: 512 } }),
      },
      listen: [{ path: join(folder, 'socket') }], spin: false,
    })
    return new Target(server, folder)
  }

  /** The server is well: a good client is served in every mode, nothing that was promised has changed, nothing is left behind. */
  async check(): Promise<void> {
    const before = pattern(0, FUZZ_BYTES, this.#round)
    const after = pattern(0, FUZZ_BYTES, ++this.#round)
    for (const mode of MODES) {
      const guard = await attach(this.address, { mode, name: GUARD })
      const { data } = await guard.read(0, FUZZ_BYTES)
      if (mode === 'simple' && this.#round > 1) ensure(data.equals(before), 'the good client\'s data has changed')
      ensure((await guard.write(0, after)).error === 0, 'a good WRITE failed')
      ensure((await guard.read(1, FUZZ_BYTES - 1)).data.equals(after.subarray(1)), 'a good READ gave something else')
      await guard.disconnect()
      const fixed = await attach(this.address, { mode, name: 'ro' })
      ensure((await fixed.read(0, FUZZ_BYTES)).data.equals(pattern(0, FUZZ_BYTES, 2)), 'the read-only export has changed')
      await fixed.disconnect()
    }
    await this.#settled()
  }

  /** Every connection that was closed is forgotten, and its memory with it. */
  async #settled(): Promise<void> {
    const until = Date.now() + SETTLE_MS
    while (this.server.clients().length > 0 || this.server.stats().bufferBytes > 0) {
      ensure(Date.now() < until,
        `left behind: ${this.server.clients().length} clients, ${this.server.stats().bufferBytes} bytes of buffers`)
      await new Promise(resolve => { setTimeout(resolve, 5) })
    }
  }

  async stop(): Promise<void> {
    await this.server.close({ deadlineMs: 1000 })
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
