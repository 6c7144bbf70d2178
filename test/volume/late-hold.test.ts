// Volumes held together, one of which comes late: it is let go of when it is held after all, and only then.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { holdAll, type NewPoint } from '../../src/volume/point-creation.js'

/** Two volumes: the second one is locked when a test says so, and nobody waits for it any more. */
async function heldLate(end: (resolve: () => void, reject: (error: Error) => void) => void): Promise<string[]> {
  const events: string[] = []
  const volume = (name: string, lock: () => Promise<void>) => ({
    now: 0, lock, hasRoomFor: () => true, unlock: () => { events.push(`unlock ${name}`) },
    by: async (_: number, work: Promise<void>, late?: () => void) => {
      if (name === 'a') return work
      late?.()
      throw new NbdeltaError('busy', 'late')
    },
  }) as unknown as NewPoint
  const locked = new Promise<void>((resolve, reject) => { setImmediate(() => { end(resolve, reject) }) })
  const holding = holdAll([volume('a', async () => undefined), volume('b', () => locked)], { ranges: 1, isBounded: true, full: '' }, async () => undefined)
  await holding.catch((error: unknown) => { events.push((error as NbdeltaError).code) })
  await locked.catch(() => undefined)
  await new Promise(resolve => { setImmediate(resolve) })
  return events
}

t.test('one that is locked late is unlocked', async t => {
  t.same(await heldLate(resolve => { resolve() }), ['unlock a', 'busy', 'unlock b'])
})

t.test('one whose disk fails late was never locked', async t => {
  t.same(await heldLate((_, reject) => { reject(new Error('its disk fails')) }), ['unlock a', 'busy'])
})
