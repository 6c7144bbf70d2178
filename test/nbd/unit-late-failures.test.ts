// R1 R2 R3: a device that fails late, in the middle of large reads that run one behind the other: each reply is right or an
// error, in order, and no buffer is lost. Under simple replies there is no way to say it: the connection ends.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { createServer, type NbdServer } from '../../src/nbd/server.js'
import { alteredDisk } from './support/altered-disk.js'
import { attach } from './support/session.js'
import { CMD, ERR, FLAG, KIB, MIB, pattern } from './support/wire.js'

const SIZE = 8 * MIB
/** Reads that touch this byte fail. */
const BAD = 3 * MIB + 300 * KIB
const READ = 900 * KIB

async function serve(t: { teardown(callback: () => unknown): unknown }, late: boolean): Promise<{ server: NbdServer, path: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-fail-'))
  const inner = MemoryDisk.from(pattern(0, SIZE))
  const rotten = alteredDisk(inner, {
    read: (offset, length, into, at) => {
      const work = (): void => {
        if (offset <= BAD && BAD < offset + length) throw new NbdeltaError('io', 'a bad spot')
        void inner.read(offset, length, into, at)
      }
      if (!late) return work() as undefined
      return sleep(offset / MIB % 3).then(work)
    },
  })
  const path = join(folder, 'socket')
  const server = await createServer({ exports: { rotten }, listen: { path } })
  t.teardown(async () => {
    await server.close({ deadlineMs: 1000 })
    rmSync(folder, { recursive: true })
  })
  return { server, path }
}

async function emptied(server: NbdServer): Promise<number> {
  for (let i = 0; i < 200 && server.clients().length > 0; i++) await sleep(5)
  return server.stats().bufferBytes
}

for (const late of [true, false]) {
  const when = late ? 'late' : 'at once'
  for (const mode of ['structured', 'extended'] as const) {
    t.test(`R2 R3: ${mode}, ${when}: errors in the middle void one reply, not its neighbours`, async t => {
      const { server, path } = await serve(t, late)
      const session = await attach({ path }, { mode, name: 'rotten' })
      const asked = Array.from({ length: 24 }, (_, i) => ({ offset: i * 311 * KIB % (SIZE - READ), flags: i % 3 === 0 ? FLAG.DF : 0 }))
      const replies = await Promise.all(asked.map(({ offset, flags }) => session.read(offset, READ, flags)))
      replies.forEach(({ error, data }, i) => {
        const { offset } = asked[i]!
        const bad = offset <= BAD && BAD < offset + READ
        t.equal(error, bad ? ERR.EIO : 0, `read ${i} at ${offset}`)
        if (!bad) t.ok(data.equals(pattern(offset, READ)))
      })
      await session.disconnect()
      t.equal(await emptied(server), 0)
    })
  }

  t.test(`R1: simple, ${when}: a small read says EIO, a large one ends the connection`, async t => {
    const { server, path } = await serve(t, late)
    const session = await attach({ path }, { mode: 'simple', name: 'rotten' })
    t.equal((await session.read(BAD, 512)).error, ERR.EIO)
    t.ok((await session.read(0, READ)).data.equals(pattern(0, READ)))
    const outcomes = await Promise.all([0, BAD - 100, 4 * MIB].map((offset) =>
      session.send({ type: CMD.READ, offset, length: READ }).reply.then(({ data }) => data.equals(pattern(offset, READ)), () => 'closed')))
    t.strictSame(outcomes.slice(1), ['closed', 'closed'])
    t.equal(await emptied(server), 0)
  })
}
