// A long batch is answered in parts while it is served, so that client and server work at the same time; a short one, and
// one behind bytes that the client has not taken yet, in a single write.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { Budget } from '../../src/nbd/budget.js'
import { Counters } from '../../src/nbd/counters.js'
import { Inbox } from '../../src/nbd/inbox.js'
import { DEFAULT_LIMITS } from '../../src/nbd/limits.js'
import { Outbox } from '../../src/nbd/outbox.js'
import { Session } from '../../src/nbd/session.js'
import type { Wire } from '../../src/nbd/wire.js'
import { alteredDisk } from './support/altered-disk.js'
import { CMD, command, KIB } from './support/wire.js'

/** A session over a socket that notes, for each write, how many requests the device had served by then. */
function setUp(queuedBytes: number): { serve: (count: number, bytes: number, alone?: boolean) => number[], replyBytes: () => number } {
  const allotment = new Budget(DEFAULT_LIMITS).admit()!
  const disk = new MemoryDisk(2 ** 20)
  let served = 0
  let bytes = 0
  let writes: number[] = []
  const note = (count: number): void => {
    bytes += count
    writes.push(served)
  }
  const socket = {
    get writableLength() { return queuedBytes },
    write: (part: Buffer, done: () => void) => { note(part.length); setImmediate(done); return true },
    cork: () => undefined, uncork: () => undefined,
  }
  const wire = { socket, writeNow: (_: Buffer, start: number, end: number) => { note(end - start); return end - start } }
  const inbox = new Inbox(allotment)
  const outbox = new Outbox(wire as unknown as Wire, allotment, DEFAULT_LIMITS.backlogBytes, () => undefined)
  const device = alteredDisk(disk, { read: (offset, length, into, at) => { served++; return disk.read(offset, length, into, at) } })
  const session = new Session({
    host: { gone: false, wake: () => undefined, report: () => undefined, broken: (error) => { throw error } },
    inbox, outbox, device, contexts: [], counters: new Counters(), inFlight: 64, extents: 16,
    facts: {
      style: 'simple', readOnly: false, fastZero: true, contexts: false, minimumBytes: 1, payloadBytes: 2 ** 25,
      readBytes: 2 ** 25,
    },
  })
  return {
    replyBytes: () => bytes,
    serve: (count, length, alone = true) => {
      served = 0
      writes = []
      const batch = Buffer.concat(Array.from({ length: count }, (_, i) => command('simple', { type: CMD.READ, offset: i * length, length })))
      batch.copy(inbox.view)
      inbox.landed(batch.length)
      t.equal(session.consume(alone), 'dry')
      outbox.flush()
      inbox.prepare()
      return writes
    },
  }
}

t.test('a long batch leaves in parts of a third of the last one, at least 4 requests', async t => {
  const { serve, replyBytes } = setUp(0)
  t.strictSame(serve(16, 4 * KIB), [4, 8, 12, 16], 'at first 4 at a time')
  t.strictSame(serve(48, 4 * KIB), [5, 10, 15, 20, 25, 30, 35, 40, 45, 48], 'then a third of the batch before')
  t.strictSame(serve(48, 4 * KIB), [16, 32, 48])
  t.strictSame(serve(3, 4 * KIB), [3], 'a short one at once')
  t.equal(replyBytes(), (16 + 48 + 48 + 3) * (4 * KIB + 16), 'every reply left, once')
})

t.test('large reads leave as soon as 128 KiB are ready', async t => {
  const { serve } = setUp(0)
  serve(48, 512)
  t.strictSame(serve(8, 64 * KIB), [2, 4, 6, 8])
})

t.test('with other clients being served in turn, a batch of small replies leaves at once', async t => {
  const { serve } = setUp(0)
  t.strictSame(serve(16, 4 * KIB, false), [16])
})

t.test('behind bytes that still wait nothing is pushed', async t => {
  const { serve } = setUp(1)
  t.strictSame(serve(16, 4 * KIB), [16])
})
