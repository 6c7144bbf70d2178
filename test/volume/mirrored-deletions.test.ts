// A volume is deleted while a mirror of it is made: whichever comes first, the other one is refused.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { openStore } from '../../src/index.js'

const MIRROR = '01234567-89ab-4cde-8f01-0000000000cc'

for (const order of ['deletion', 'mirror'] as const) {
  t.test(`the ${order} comes first`, async t => {
    const path = mkdtempSync(join(tmpdir(), 'nbdelta-mirrored-'))
    t.teardown(() => { rmSync(path, { recursive: true, force: true }) })
    const store = await openStore({ path, create: true })
    t.teardown(() => store.close())
    const { uuid } = await store.createVolume({ name: 'disk', sizeBytes: 2 ** 20 })
    let isMirrored = false
    const judge = (): void => { if (isMirrored) throw new NbdeltaError('busy', 'a mirror needs it') }
    const deletion = (): Promise<void> => store.deleteVolume('disk', judge)
    const mirror = (): Promise<void> => store.addMirror({ uuid: MIRROR, name: 'm', volume: uuid, state: {} }, [uuid], () => { isMirrored = true })
    const asked = [order === 'deletion' ? deletion() : mirror()]
    const ended = Promise.allSettled(asked)
    // It has its turn by now, and disks to wait for.
    await new Promise(setImmediate)
    const [second] = await Promise.allSettled([order === 'deletion' ? mirror() : deletion()])
    const [first] = await ended
    t.equal(first!.status, 'fulfilled')
    t.match(second, { status: 'rejected', reason: { code: order === 'deletion' ? 'not-found' : 'busy' } })
    t.equal(isMirrored, order === 'mirror')
    t.equal(store.get('disk') !== undefined, order === 'mirror')
    t.equal(store.mirrors.length, order === 'mirror' ? 1 : 0)
  })
}
