// A volume that cannot be opened leaves none of its files open, however far it has come: it is listed, and may be opened anew often.
import { mkdtempSync, readdirSync, readlinkSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openStore } from '../../src/volume/open-store.js'

const GRAIN = 4096
const root = mkdtempSync(join(tmpdir(), 'nbdelta-leaves-'))
t.teardown(() => rmSync(root, { recursive: true, force: true }))

function openBelow(folder: string): string[] {
  const targets = readdirSync('/proc/self/fd').map(fd => { try { return readlinkSync(`/proc/self/fd/${fd}`) } catch { return '' } })
  return targets.filter(target => target.startsWith(folder))
}

const DAMAGES: readonly (readonly [what: string, damage: (folder: string) => void])[] = [
  ['its content was cut off', folder => { truncateSync(join(folder, 'live'), 0) }],
  ['maps of a point are gone', folder => { rmSync(join(folder, 'points', '2', 'maps')) }],
  ['the staging log cannot be read', folder => {
    rmSync(join(folder, 'staged'))
    writeFileSync(join(folder, 'staged'), 'x'.repeat(4096))
  }],
]

for (const [what, damage] of DAMAGES) {
  t.test(what, async t => {
    const path = join(root, `${DAMAGES.findIndex(([other]) => other === what)}`)
    const store = await openStore({ path, create: true })
    const volume = await store.createVolume({ name: 'v', sizeBytes: 4 * GRAIN, grainBytes: GRAIN })
    await volume.write(0, GRAIN, Buffer.alloc(GRAIN, 1), 0)
    for (const name of ['one', 'two', 'three']) {
      await volume.points.create({ name, kind: 'snapshot' })
      await volume.write(0, GRAIN, Buffer.alloc(GRAIN, 2), 0)
    }
    await store.close()
    const folder = join(path, 'volumes', volume.uuid)
    damage(folder)
    const again = await openStore({ path })
    t.ok(again.get('v')!.problem)
    t.same(openBelow(folder), [])
    await t.rejects(again.reopenVolume('v'))
    t.same(openBelow(folder), [])
    await again.close()
    t.same(openBelow(path), [])
  })
}
