// F1-F3: every command with every flag and every pair of flags, in every mode, advertised or not.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { alteredDisk } from './support/altered-disk.js'
import { startServer } from './support/fixture.js'
import { attach, type Session } from './support/session.js'
import { CMD, command, ERR, FLAG, MIB, MODES, pattern, statusPayload, TX, type Mode } from './support/wire.js'

const plain = new MemoryDisk(MIB)
const fixture = await startServer(t, {
  exports: {
    unhurried: alteredDisk(plain, { capabilities: { ...plain.capabilities, fastZero: false, trim: false } }),
    sluggish: alteredDisk(plain, {
      zero: (offset, length, mode) => {
        if (mode.fast) throw new NbdeltaError('not-fast', 'writing is as fast')
        return plain.zero(offset, length, mode)
      },
    }),
  },
})

const BITS = Array.from({ length: 16 }, (_, bit) => 1 << bit)
const FLAG_SETS = [0, ...BITS, ...BITS.flatMap((a, i) => BITS.slice(i + 1).map(b => a | b)), 0xffff]
const COMMANDS: readonly (readonly [string, number])[] = [
  ...Object.entries(CMD).filter(([name]) => name !== 'DISC'), ['RESIZE', 8], ['UNKNOWN', 9], ['UNKNOWN', 0xffff],
]

/** What each command may carry beside FUA (PROTOCOL section 8's table). */
function allowedFlags(type: number, mode: Mode, facts: number): number {
  const negotiated = mode === 'simple' ? 0 : FLAG.DF
  const payload = mode === 'extended' ? FLAG.PAYLOAD_LEN : 0
  switch (type) {
    case CMD.READ: return FLAG.FUA | negotiated
    case CMD.WRITE: return FLAG.FUA | payload
    case CMD.WRITE_ZEROES: return FLAG.FUA | FLAG.NO_HOLE | (facts & TX.SEND_FAST_ZERO ? FLAG.FAST_ZERO : 0)
    case CMD.BLOCK_STATUS: return FLAG.FUA | FLAG.REQ_ONE | (facts & TX.BLOCK_STATUS_PAYLOAD ? FLAG.PAYLOAD_LEN : 0)
    default: return FLAG.FUA
  }
}

function expected(type: number, flags: number, mode: Mode, facts: number): number {
  if (type > CMD.BLOCK_STATUS) return ERR.EINVAL
  if (type === CMD.BLOCK_STATUS && mode === 'simple') return ERR.EINVAL
  return (flags & ~allowedFlags(type, mode, facts)) === 0 ? 0 : ERR.EINVAL
}

async function errnoOf(session: Session, type: number, flags: number): Promise<number> {
  const inFlight = { type, flags, offset: type === CMD.FLUSH ? 0 : 4096 }
  const swallowed = session.mode === 'extended' && (flags & FLAG.PAYLOAD_LEN) !== 0
  if (type === CMD.WRITE) return (await session.call({ ...inFlight, payload: pattern(4096, 512) })).error
  if (type === CMD.BLOCK_STATUS && swallowed) {
    const payload = statusPayload(512, session.contexts.map(context => context.id))
    const { cookie, reply } = session.expect({ ...inFlight, payload }, undefined, 512n)
    session.stream.socket.write(command(session.mode, { ...inFlight, payload, cookie }))
    return (await reply).error
  }
  if (swallowed) return (await session.call({ ...inFlight, payload: Buffer.alloc(512, 1) })).error
  return (await session.call({ ...inFlight, length: type === CMD.FLUSH ? 0 : 512 })).error
}

for (const mode of MODES) {
  for (const name of ['disk', 'unhurried']) {
    t.test(`F1 F2 F3: ${mode}, ${name}: ${COMMANDS.length} commands x ${FLAG_SETS.length} flag sets`, async t => {
      const session = await attach(fixture.address, { mode, name })
      const facts = session.facts.flags
      t.equal((facts & TX.SEND_FAST_ZERO) !== 0, name === 'disk')
      t.ok(facts & TX.SEND_FUA)
      const wrong: string[] = []
      for (const [what, type] of COMMANDS) {
        for (const flags of FLAG_SETS) {
          const errno = await errnoOf(session, type, flags)
          const wanted = expected(type, flags, mode, facts)
          if (errno !== wanted) wrong.push(`${what} (${type}) flags 0x${flags.toString(16)}: ${errno}, should be ${wanted}`)
        }
      }
      t.strictSame(wrong, [])
      await session.alive()
    })
  }
}

for (const mode of MODES) {
  t.test(`F2: ${mode}: a WRITE with a bad flag writes nothing, its payload is skipped`, async t => {
    const session = await attach(fixture.address, { mode })
    await session.write(0, pattern(0, 4096, 1))
    for (const flags of [FLAG.DF, FLAG.NO_HOLE, 0x8000]) {
      const payload = Buffer.alloc(4096, command(mode, { type: CMD.DISC }))
      t.equal((await session.call({ type: CMD.WRITE, flags, offset: 0, payload })).error, ERR.EINVAL)
    }
    t.ok((await session.read(0, 4096)).data.equals(pattern(0, 4096, 1)))
  })

  t.test(`FLUSH: ${mode}: offset and length are ignored`, async t => {
    const session = await attach(fixture.address, { mode })
    for (const [offset, length] of [[1, 0], [0, 1], [2 ** 50, 0xffff_ffff], [512, 512]]) {
      t.equal((await session.call({ type: CMD.FLUSH, offset, length })).error, 0, `${offset}, ${length}`)
    }
    await session.alive()
  })

  t.test(`F3: ${mode}: FAST_ZERO that is not fast is ENOTSUP with the content untouched; without the flag never`, async t => {
    const session = await attach(fixture.address, { mode, name: 'sluggish' })
    await session.write(0, pattern(0, 65_536, 2))
    for (const flags of [FLAG.FAST_ZERO, FLAG.FAST_ZERO | FLAG.NO_HOLE, FLAG.FAST_ZERO | FLAG.FUA]) {
      t.equal((await session.call({ type: CMD.WRITE_ZEROES, flags, offset: 100, length: 5000 })).error, ERR.ENOTSUP)
    }
    t.ok((await session.read(0, 65_536)).data.equals(pattern(0, 65_536, 2)))
    for (const flags of [0, FLAG.NO_HOLE]) {
      t.equal((await session.call({ type: CMD.WRITE_ZEROES, flags, offset: 100, length: 5000 })).error, 0)
    }
    t.ok((await session.read(100, 5000)).data.every(byte => byte === 0))
  })

  t.test(`DISC: ${mode}: any flags and fields end the session without a reply`, async t => {
    for (const flags of [0, ...BITS.filter(bit => !(mode === 'extended' && bit === FLAG.PAYLOAD_LEN)), 0xffdf]) {
      const session = await attach(fixture.address, { mode })
      session.stream.socket.write(command(mode, { type: CMD.DISC, flags, offset: 2n ** 63n, length: flags,
        cookie: 2n ** 64n - 1n }))
      await session.closed()
    }
    t.pass()
  })
}
