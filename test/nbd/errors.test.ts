// Section 9: the errno of each condition, X2 (no wrap-around), X3 (order of checks), X4 (a failed flush), S6.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError, type ErrorCode } from '../../src/device/errors.js'
import { alteredDisk } from './support/altered-disk.js'
import { DISK_BYTES, RO_BYTES, startServer } from './support/fixture.js'
import { attach } from './support/session.js'
import { CMD, ERR, FLAG, MIB, MODES, type Command } from './support/wire.js'

const inner = new MemoryDisk(MIB)
/** Everything but reads fails with this code. */
function failing(code: ErrorCode, late: boolean): ReturnType<typeof alteredDisk> {
  const fail = (): Promise<void> => {
    const error = new NbdeltaError(code, `the device says ${code}`)
    if (!late) throw error
    return new Promise((_, reject) => { setImmediate(() => reject(error)) })
  }
  return alteredDisk(inner, { write: fail, zero: fail, trim: fail, flush: fail })
}
const CODES: readonly (readonly [ErrorCode, number])[] = [
  ['no-space', ERR.ENOSPC], ['io', ERR.EIO], ['flush-failed', ERR.EIO], ['read-only', ERR.EPERM], ['internal', ERR.EIO],
]
let flushes = 0
let broken = true
const fixture = await startServer(t, {
  exports: {
    ...Object.fromEntries(CODES.flatMap(([code]) => [[`${code}-now`, failing(code, false)],
      [`${code}-late`, failing(code, true)]])),
    fsyncgate: alteredDisk(inner, {
      flush() {
        flushes++
        if (broken) return Promise.reject(new NbdeltaError('flush-failed', 'fsync said no'))
        return undefined
      },
    }),
  },
})
const payload = Buffer.alloc(512)

const PAST_END: readonly (readonly [string, number, number])[] = [
  ['READ', CMD.READ, ERR.EINVAL], ['WRITE', CMD.WRITE, ERR.ENOSPC], ['TRIM', CMD.TRIM, ERR.EINVAL],
  ['CACHE', CMD.CACHE, ERR.EINVAL],
  ['WRITE_ZEROES', CMD.WRITE_ZEROES, ERR.ENOSPC], ['BLOCK_STATUS', CMD.BLOCK_STATUS, ERR.EINVAL],
]
for (const mode of MODES) {
  t.test(`section 9, X2: ${mode}: past the end`, async t => {
    const session = await attach(fixture.address, { mode })
    const ranges: (readonly [number | bigint, number | bigint])[] = [
      [DISK_BYTES - 511, 512], [DISK_BYTES, 512], [DISK_BYTES + 1, 512], [2 ** 31, 512], [2 ** 32, 512], [2n ** 53n - 512n, 512],
      [2n ** 53n, 512],
      [2n ** 63n - 512n, 512], [2n ** 63n, 512], [2n ** 64n - 512n, 512], [2n ** 64n - 1n, 512], [0, DISK_BYTES + 1],
      [1, DISK_BYTES], [0, 0xffff_ffff],
      [2n ** 64n - 0xffff_ffffn, 0xffff_ffff],
      ...mode === 'extended' ? [[512, 2n ** 64n - 512n], [1, 2n ** 64n - 1n], [2n ** 63n, 2n ** 63n],
        [0, 2n ** 53n + 1n]] as const : [],
    ]
    for (const [what, type, errno] of PAST_END) {
      const wanted = type === CMD.BLOCK_STATUS && mode === 'simple' ? ERR.EINVAL : errno
      for (const [offset, length] of ranges) {
        if (type === CMD.WRITE && length !== 512) continue
        const request: Command = type === CMD.WRITE ? { type, offset, payload } : { type, offset, length }
        t.equal((await session.call(request)).error, wanted, `${what} [${offset}, +${length})`)
      }
    }
    await session.alive()
  })

  t.test(`section 9: ${mode}: read-only`, async t => {
    const session = await attach(fixture.address, { mode, name: 'ro' })
    for (const request of [
      { type: CMD.WRITE, offset: 0, payload }, { type: CMD.WRITE, offset: RO_BYTES, payload, flags: FLAG.FUA },
      { type: CMD.TRIM, offset: 0, length: 512 },
      { type: CMD.WRITE_ZEROES, offset: 0, length: 512 }, { type: CMD.WRITE_ZEROES, offset: 0, length: 512, flags: FLAG.NO_HOLE },
    ]) t.equal((await session.call(request)).error, ERR.EPERM)
  })

  t.test(`section 9: ${mode}: alignment to an advertised minimum of 512`, async t => {
    const session = await attach(fixture.address, { mode, name: 'block' })
    for (const [offset, length] of [[1, 512], [0, 511], [511, 1], [512, 513], [100, 412]]) {
      for (const type of [CMD.READ, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE, ...mode === 'simple' ? [] : [CMD.BLOCK_STATUS]]) {
        t.equal((await session.call({ type, offset, length })).error, ERR.EINVAL, `command ${type} [${offset}, +${length})`)
      }
      t.equal((await session.call({ type: CMD.WRITE, offset, payload: Buffer.alloc(length) })).error, ERR.EINVAL,
        `WRITE [${offset}, +${length})`)
    }
    t.equal((await session.read(512, 1024)).error, 0)
  })

  t.test(`section 9: ${mode}: unknown commands`, async t => {
    const session = await attach(fixture.address, { mode })
    for (const type of [8, 9, 255, 256, 0x8000, 0xffff]) {
      t.equal((await session.call({ type, offset: 512, length: 512 })).error, ERR.EINVAL, `command ${type}`)
      await session.alive()
    }
  })

  t.test(`section 9: ${mode}: what a device says, now or later`, async t => {
    for (const [code, errno] of CODES) {
      for (const when of ['now', 'late']) {
        const session = await attach(fixture.address, { mode, name: `${code}-${when}` })
        t.equal((await session.write(0, payload)).error, errno, `WRITE ${code} ${when}`)
        for (const type of [CMD.TRIM, CMD.WRITE_ZEROES]) t.equal((await session.call({ type, offset: 0, length: 4096 })).error,
          errno, `command ${type} ${code} ${when}`)
        t.equal((await session.flush()).error, errno, `FLUSH ${code} ${when}`)
        await session.alive()
      }
    }
  })

  t.test(`X3: ${mode}: the order of checks`, async t => {
    const readOnly = await attach(fixture.address, { mode, name: 'ro' })
    t.equal((await readOnly.call({ type: CMD.WRITE, flags: FLAG.DF, offset: 0, payload })).error, ERR.EINVAL,
      'flags before read-only')
    t.equal((await readOnly.call({ type: 99, offset: 0, length: 512 })).error, ERR.EINVAL, 'command before read-only')
    t.equal((await readOnly.call({ type: CMD.WRITE, offset: 2 ** 40, payload })).error, ERR.EPERM, 'read-only before range')
    t.equal((await readOnly.call({ type: CMD.WRITE, offset: 0, length: 0 })).error, ERR.EPERM, 'read-only before zero length')
    const block = await attach(fixture.address, { mode, name: 'block' })
    t.equal((await block.call({ type: CMD.WRITE, offset: 2 ** 40 + 1, payload })).error, ERR.EINVAL, 'alignment before range')
    t.equal((await block.call({ type: CMD.READ, offset: 1, length: 0 })).error, 0, 'zero length before alignment')
  })

  t.test(`X4: ${mode}: a failed flush fails FLUSH and every FUA; others go on`, async t => {
    const session = await attach(fixture.address, { mode, name: 'fsyncgate' })
    flushes = 0
    broken = true
    t.equal((await session.flush()).error, ERR.EIO)
    t.equal((await session.write(0, payload, FLAG.FUA)).error, ERR.EIO)
    for (const type of [CMD.TRIM, CMD.WRITE_ZEROES]) {
      t.equal((await session.call({ type, flags: FLAG.FUA, offset: 0, length: 4096 })).error, ERR.EIO)
    }
    t.equal((await session.write(0, payload)).error, 0)
    t.equal((await session.read(0, 512)).error, 0)
    t.ok(flushes >= 4)
    broken = false
    t.equal((await session.flush()).error, 0, 'the server adds no latch of its own; the device decides')
  })
}
