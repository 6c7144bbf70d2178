// The inbox against a plain queue of bytes: whatever lands in whatever pieces, with slabs pinned or not and memory short or
// not, what is parsed is what was sent, and pinned bytes are never overwritten.
import t from 'tap'
import { Budget } from '../../src/nbd/budget.js'
import { Inbox, WHOLE_PAYLOAD_BYTES } from '../../src/nbd/inbox.js'
import { ALLOTMENT_BYTES, DEFAULT_LIMITS, LARGE_SLAB_BYTES } from '../../src/nbd/limits.js'
import type { Slab } from '../../src/nbd/slab.js'

function generator(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return Math.floor(state / 2 ** 32 * below)
  }
}

interface Pin { readonly slab: Slab, readonly at: number, readonly bytes: Buffer }

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`SEED=${seed}`)

for (const [name, memoryBytes] of [['plenty', 2 ** 26], ['short', ALLOTMENT_BYTES + LARGE_SLAB_BYTES], ['none', ALLOTMENT_BYTES]] as const) {
  t.test(`Z7: memory: ${name}`, async t => {
    const random = generator(seed)
    const budget = new Budget({ ...DEFAULT_LIMITS, memoryBytes })
    const allotment = budget.admit()!
    const inbox = new Inbox(allotment)
    let sent = 0
    let parsed = 0
    const pins: Pin[] = []
    const byteAt = (position: number): number => (position * 7 + (position >> 8)) & 0xff
    for (let round = 0; round < 4000; round++) {
      if (inbox.stuck) while (pins.length > 0) release(pins)
      const { view } = inbox
      const count = 1 + random(round % 3 === 0 ? view.length : Math.min(view.length, 3000))
      for (let i = 0; i < count; i++) view[i] = byteAt(sent + i)
      sent += count
      inbox.landed(count)
      // Parse in units, as requests would be: each either fits what is whole at once, or everything there is taken.
      while (inbox.available >= WHOLE_PAYLOAD_BYTES / 2 || (inbox.available > 0 && random(3) > 0)) {
        const unit = Math.min(inbox.available, 1 + random(WHOLE_PAYLOAD_BYTES / 2))
        for (let i = 0; i < unit; i++) if (inbox.slab.buffer[inbox.pos + i] !== byteAt(parsed + i)) t.fail(`byte ${parsed + i}`)
        if (random(4) === 0 && pins.length < 8) {
          inbox.slab.pin()
          pins.push({ slab: inbox.slab, at: inbox.pos, bytes: Buffer.from(inbox.slab.buffer.subarray(inbox.pos, inbox.pos + unit)) })
        }
        parsed += unit
        inbox.pos += unit
      }
      inbox.prepare()
      t.equal(inbox.view.length > 0, true)
      if (pins.length > 0 && random(3) === 0) release(pins)
    }
    while (pins.length > 0) release(pins)
    t.equal(sent - parsed, inbox.available)
    inbox.release()
    allotment.end()
    t.equal(budget.usedBytes, 0, 'every slab was given back')

    function release(held: Pin[]): void {
      const { slab, at, bytes } = held.shift()!
      if (!slab.buffer.subarray(at, at + bytes.length).equals(bytes)) t.fail('pinned bytes were overwritten')
      slab.unpin()
    }
  })
}

t.test('grows with the traffic, shrinks when it calms down', async t => {
  const budget = new Budget(DEFAULT_LIMITS)
  const inbox = new Inbox(budget.admit()!)
  const land = (count: number): void => {
    inbox.landed(count)
    inbox.pos = inbox.end
    inbox.prepare()
  }
  t.equal(inbox.slab.kind, 'small')
  land(inbox.view.length)
  t.equal(inbox.slab.kind, 'large')
  for (let i = 0; i < 511; i++) land(28)
  t.equal(inbox.slab.kind, 'large')
  land(28)
  t.equal(inbox.slab.kind, 'small')
})

t.test('O3: room for a long option is taken only as its bytes come, and refused when there is none', async t => {
  for (const [memoryBytes, starved] of [[2 ** 24, false], [ALLOTMENT_BYTES + LARGE_SLAB_BYTES, true]] as const) {
    const budget = new Budget({ ...DEFAULT_LIMITS, memoryBytes })
    const inbox = new Inbox(budget.admit()!)
    inbox.need(2 ** 20)
    inbox.prepare()
    t.equal(inbox.slab.kind, 'small', 'nothing on credit')
    for (let got = 0; got < 2 ** 20 && !inbox.starved;) {
      const count = Math.min(inbox.view.length, 2 ** 20 - got)
      got += count
      inbox.landed(count)
      inbox.prepare()
    }
    t.equal(inbox.starved, starved)
    if (!starved) t.equal(inbox.available, 2 ** 20)
  }
})
