// A device that completes now or later, in any order, and touches its buffers only when it completes: whatever the style, the
// receive way and the memory at hand, every byte arrives where it belongs and no buffer is reused too early.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { BlockDevice, Pending } from '../../src/device/block-device.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { createServer } from '../../src/nbd/server.js'
import type { ServerLimits } from '../../src/nbd/limits.js'
import { alteredDisk } from './support/altered-disk.js'
import { attach, type Session } from './support/session.js'
import { CMD, FLAG, KIB, MODES, type Mode } from './support/wire.js'

const REGIONS = 24
const REGION_BYTES = 768 * KIB
const SIZES = [1, 512, 4 * KIB, 8 * KIB, 8 * KIB + 1, 50_000, 256 * KIB, 256 * KIB + 512, 700 * KIB]

type Random = (below: number) => number

/** A small generator, so that a failure can be run again from its printed seed. */
function generator(seed: number): Random {
  let state = seed >>> 0 || 1
  return (below) => {
    state ^= state << 13
    state >>>= 0
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state % below
  }
}

function lateDisk(inner: MemoryDisk, random: Random): BlockDevice {
  const later = (work: () => void): Pending => {
    if (random(3) === 0) {
      work()
      return undefined
    }
    return new Promise((resolve) => {
      const done = (): void => { work(); resolve() }
      if (random(2) === 0) setImmediate(done)
      else setTimeout(done, random(4))
    })
  }
  return alteredDisk(inner, {
    read: (offset, length, into, at) => {
      into.fill(0xee, at, at + length)
      return later(() => { void inner.read(offset, length, into, at) })
    },
    write: (offset, length, from, at) => later(() => { void inner.write(offset, length, from, at) }),
    zero: (offset, length, mode) => later(() => { void inner.zero(offset, length, mode) }),
    flush: () => later(() => {}),
  })
}

async function region(
  session: Session, random: Random, model: Buffer, base: number, steps: number, fail: (what: string) => void,
): Promise<void> {
  for (let step = 0; step < steps; step++) {
    const length = SIZES[random(SIZES.length)]!
    const offset = base + random(REGION_BYTES - length + 1)
    const what = random(8)
    if (what < 4) {
      const { error, data } = await session.read(offset, length, random(6) === 0 && session.mode !== 'simple' ? FLAG.DF : 0)
      const right = error === 0 && data.equals(model.subarray(offset, offset + length))
      if (!right) fail(`read of ${length} at ${offset}: errno ${error}, or other bytes`)
    } else if (what < 7) {
      const payload = Buffer.alloc(length, random(255) + 1)
      payload.copy(model, offset)
      const { error } = await session.write(offset, payload, random(5) === 0 ? FLAG.FUA : 0)
      if (error !== 0) fail(`write: errno ${error}`)
    } else {
      model.fill(0, offset, offset + length)
      const { error } = await session.call({ type: CMD.WRITE_ZEROES, offset, length })
      if (error !== 0) fail(`zeroes: errno ${error}`)
      await session.flush()
    }
  }
}

interface Way {
  readonly name: string
  readonly directReceive: boolean
  readonly steps: number
  readonly limits: Partial<ServerLimits>
}
const WAYS: readonly Way[] = [
  { name: 'direct', directReceive: true, steps: 240, limits: {} },
  { name: 'public', directReceive: false, steps: 240, limits: {} },
  { name: 'direct, no shared memory', directReceive: true, steps: 48, limits: { memoryBytes: 48 * KIB } },
  {
    name: 'public, little memory, 3 in flight', directReceive: false, steps: 96,
    limits: { connectionBytes: 300 * KIB, inFlight: 3, backlogBytes: 1000 },
  },
]

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`SEED=${seed}`)

for (const way of WAYS) {
  for (const mode of MODES as readonly Mode[]) {
    t.test(`G1 Z7: ${mode}, ${way.name}: late completions, any order, every byte in its place`, async t => {
      const folder = mkdtempSync(join(tmpdir(), 'nbdelta-late-'))
      const random = generator(seed + way.name.length * 31 + mode.length)
      const disk = new MemoryDisk(REGIONS * REGION_BYTES)
      const address = { path: join(folder, 'socket') }
      const exports = { disk: lateDisk(disk, random) }
      const server = await createServer({ exports, listen: address, limits: way.limits, directReceive: way.directReceive })
      t.teardown(async () => {
        await server.close({ deadlineMs: 1000 })
        rmSync(folder, { recursive: true })
      })
      const session = await attach(address, { mode, name: 'disk' })
      const model = Buffer.alloc(disk.sizeBytes)
      const wrong: string[] = []
      const steps = way.steps / REGIONS
      const fail = (what: string): void => { wrong.push(what) }
      const bases = Array.from({ length: REGIONS }, (_, i) => i * REGION_BYTES)
      await Promise.all(bases.map((base) => region(session, random, model, base, steps, fail)))
      t.strictSame(wrong, [], `seed ${seed}`)
      await session.disconnect()
      for (let i = 0; i < 100 && server.clients().length > 0; i++) await sleep(5)
      t.equal(server.stats().bufferBytes, 0, 'every buffer was given back')
    })
  }
}
