// R1-R5: READ, and zero-length requests of every kind.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { alteredDisk } from './support/altered-disk.js'
import { DISK_BYTES, HUGE_BYTES, MAP, mappedContent, ODD_BYTES, PAGE, startServer } from './support/fixture.js'
import { attach } from './support/session.js'
import { CHUNK, CMD, ERR, FLAG, KIB, MIB, MODES, pattern } from './support/wire.js'

/** Reads that touch [64 KiB, 68 KiB) fail: at once (`thrown`), or after a while (`late`). */
const BAD = [64 * KIB, 68 * KIB] as const
function brokenDisk(how: 'thrown' | 'late'): ReturnType<typeof alteredDisk> {
  const inner = MemoryDisk.from(pattern(0, MIB, 4))
  return alteredDisk(inner, {
    read(offset, length, into, at) {
      const bad = offset < BAD[1] && offset + length > BAD[0]
      if (!bad) return inner.read(offset, length, into, at)
      const error = new NbdeltaError('io', 'bad sector \n for the test')
      if (how === 'late') return new Promise((_, reject) => { setTimeout(() => reject(error), 5) })
      throw error
    },
  })
}
const late = MemoryDisk.from(pattern(0, 4 * MIB, 5))
const fixture = await startServer(t, {
  exports: {
    thrown: brokenDisk('thrown'), late: brokenDisk('late'),
    slow: alteredDisk(late,
      { read: (offset, length, into, at) => new Promise(resolve => { setImmediate(() => { void late.read(offset, length, into,
      at); resolve() }) }) }),
  },
})

for (const mode of MODES) {
  for (const name of ['thrown', 'late']) {
    t.test(`R1 R2: ${mode}: a read that fails (${name}) is EIO, the session lives, neighbours are fine`, async t => {
      const session = await attach(fixture.address, { mode, name })
      const before = session.send({ type: CMD.READ, offset: 0, length: 64 * KIB })
      const failing = [[64 * KIB, 4 * KIB], [0, 128 * KIB], [66 * KIB, 1], [65 * KIB, 256 * KIB],
        ...mode === 'simple' ? [] : [[0, MIB], [65 * KIB, 500 * KIB]]]
        .map(([offset, length]) => session.send({ type: CMD.READ, offset, length }))
      const after = session.send({ type: CMD.READ, offset: 68 * KIB, length: 100 * KIB })
      t.ok((await before.reply).data.equals(pattern(0, 64 * KIB, 4)))
      for (const { reply } of failing) t.equal((await reply).error, ERR.EIO)
      t.ok((await after.reply).data.equals(pattern(68 * KIB, 100 * KIB, 4)))
      await session.alive()
    })
  }

  t.test(`R1: ${mode}: a long read that fails gives an error, or cuts the line: never its full length`, async t => {
    for (const name of ['thrown', 'late']) {
      for (const [offset, length] of [[0, MIB], [3, MIB - 5], [65 * KIB, 900 * KIB]]) {
        const session = await attach(fixture.address, { mode, name })
        const { reply } = session.send({ type: CMD.READ, offset, length })
        const errno = await reply.then(({ error }) => error, () => 'cut')
        t.ok(errno === ERR.EIO || (errno === 'cut' && mode === 'simple'), `${name} ${length}: ${errno}`)
        if (errno === 'cut') await session.closed()
        else await session.alive()
      }
    }
  })

  t.test(`R2: ${mode}: reads of every shape give what was written`, async t => {
    for (const name of ['disk', 'slow']) {
      const session = await attach(fixture.address, { mode, name })
      if (name === 'disk') t.equal((await session.write(0, pattern(0, 4 * MIB, 5))).error, 0)
      const content = pattern(0, 4 * MIB, 5)
      const shapes = [[0, 1], [1, 1], [4095, 2], [511, 4098], [0, 65_536], [65_535, 65_538], [3, 300_001], [1, MIB + 14],
        [0, 4 * MIB], [4 * MIB - 1, 1]]
      for (const [{ reply }, offset, length] of shapes.map(([offset, length]) =>
        [session.send({ type: CMD.READ, offset, length }), offset, length] as const)) {
        t.ok((await reply).data.equals(content.subarray(offset, offset + length)), `${name}: ${length} at ${offset}`)
      }
    }
  })

  t.test(`R2: ${mode}: an export of an odd size reads to its last byte and not further`, async t => {
    const session = await attach(fixture.address, { mode, name: 'odd' })
    await session.write(ODD_BYTES - 5000, pattern(0, 5000))
    t.ok((await session.read(ODD_BYTES - 5000, 5000)).data.equals(pattern(0, 5000)))
    t.equal((await session.read(ODD_BYTES - 1, 2)).error, ERR.EINVAL)
    t.equal((await session.read(ODD_BYTES, 1)).error, ERR.EINVAL)
  })

  t.test(`R4: ${mode}: up to the maximum payload served, longer EINVAL with a text`, async t => {
    const session = await attach(fixture.address, { mode, name: 'huge' })
    const { maximum } = session.facts.blockSizes!
    await session.write(HUGE_BYTES - maximum, pattern(0, 100_000))
    const { error, data } = await session.read(HUGE_BYTES - maximum, maximum)
    t.equal(error, 0)
    t.equal(data.length, maximum)
    t.ok(data.subarray(0, 100_000).equals(pattern(0, 100_000)))
    for (const length of [maximum + 1, 2 * maximum, 0xffff_ffff]) {
      const reply = await session.read(0, length)
      t.equal(reply.error, ERR.EINVAL, `${length}`)
      if (mode !== 'simple') t.match(reply.message, /max/)
    }
    await session.alive()
  })

  t.test(`R5: ${mode}: zero length`, async t => {
    const session = await attach(fixture.address, { mode })
    for (const type of [CMD.READ, CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE]) {
      for (const offset of [0, 4096, DISK_BYTES]) {
        const reply = await session.call({ type, offset, length: 0 })
        t.equal(reply.error, 0, `command ${type} at ${offset}`)
        if (type === CMD.READ && mode !== 'simple') t.strictSame(reply.chunks.map(chunk => chunk.type), [CHUNK.NONE])
      }
    }
    t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 0 })).error, ERR.EINVAL)
    await session.alive()
  })
}

for (const mode of ['structured', 'extended'] as const) {
  t.test(`R2: ${mode}: holes come as OFFSET_HOLE, data as OFFSET_DATA`, async t => {
    const session = await attach(fixture.address, { mode, name: 'map' })
    const { data, chunks } = await session.read(0, MIB)
    t.ok(data.equals(mappedContent()))
    t.ok(chunks.some(chunk => chunk.type === CHUNK.OFFSET_HOLE))
    const sent = chunks.filter(chunk => chunk.type === CHUNK.OFFSET_DATA).reduce((sum, chunk) => sum + chunk.length, 0)
    const there = MAP.filter(([, state]) => state === 0).reduce((sum, [length]) => sum + length, 0)
    t.equal(sent, there, 'not one zero crossed the wire')
    t.ok(chunks.filter(chunk => chunk.length % 512).length === 0, 'multiples of 512')
    t.ok(chunks.length <= MAP.length + 1, `few chunks (G5): ${chunks.length}`)
  })

  t.test(`R2: ${mode}: a hole in the middle of an unaligned read`, async t => {
    const session = await attach(fixture.address, { mode, name: 'map' })
    for (const [offset, length] of [[60 * KIB + 7, 200 * KIB + 3], [64 * KIB - 1, 2], [64 * KIB - 1, 64 * KIB + 2],
      [128 * KIB, PAGE + 1], [500 * KIB, 1]]) {
      t.ok((await session.read(offset, length)).data.equals(mappedContent().subarray(offset, offset + length)),
        `${length} at ${offset}`)
    }
  })

  t.test(`R2 R3: ${mode}: a DF read that fails midway is filled up with zeros and voided`, async t => {
    for (const name of ['thrown', 'late']) {
      const session = await attach(fixture.address, { mode, name })
      // So that old content lies in the server's buffers.
      await session.read(512 * KIB, 512 * KIB)
      const { error, data } = await session.read(0, 512 * KIB, FLAG.DF)
      t.equal(error, ERR.EIO)
      const first = pattern(0, 512 * KIB, 4)
      const alien = data.findIndex((byte, at) => byte !== 0 && byte !== first[at])
      t.equal(alien, -1, `nothing of anybody else's (byte ${alien})`)
      await session.alive()
    }
  })

  t.test(`R3: ${mode}: DF gives one content chunk up to 64 KiB at least, longer may be EOVERFLOW`, async t => {
    const session = await attach(fixture.address, { mode, name: 'map' })
    const content = mappedContent()
    for (const [offset, length] of [[0, 65_536], [32 * KIB, 65_536], [100 * KIB + 1, 65_536], [64 * KIB, 64 * KIB],
      [128 * KIB, 64 * KIB], [70 * KIB, 1], [0, 512]]) {
      const { error, data, chunks } = await session.read(offset, length, FLAG.DF)
      t.equal(error, 0)
      t.ok(data.equals(content.subarray(offset, offset + length)))
      t.equal(chunks.filter(chunk => chunk.type === CHUNK.OFFSET_DATA || chunk.type === CHUNK.OFFSET_HOLE).length, 1,
        `${length} at ${offset}`)
    }
    for (const length of [65_537, 256 * KIB, MIB]) {
      const { error, data } = await session.read(0, length, FLAG.DF)
      t.ok(error === ERR.EOVERFLOW || (error === 0 && data.equals(content.subarray(0, length))), `${length}: errno ${error}`)
    }
  })
}
