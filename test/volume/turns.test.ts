// Operations that take several volumes meet restores from another volume's snapshot: whoever waits for a turn holds none that another needs.
import { join } from 'node:path'
import t from 'tap'
import { openStore } from '../../src/volume/open-store.js'

const G = 4096
const ROUNDS = 12
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(120_000)

t.test('groups and restores across volumes, in both directions, at once', async t => {
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  const volumes = await Promise.all(['a', 'b'].map(name => store.createVolume({ name, sizeBytes: 16 * G, grainBytes: G })))
  await store.createGroup('g', ['a', 'b'])
  for (const [i, volume] of volumes.entries()) await volume.write(0, G, Buffer.alloc(G, i + 1), 0)
  await store.createGroupPoints({ group: 'g', name: 's', kind: 'snapshot' })
  let ended = 0
  for (let round = 0; round < ROUNDS; round++) {
    const work = [
      ...volumes.map(async (volume, i) => { await (await volume.restore({ from: 's', sourceVolume: volumes[1 - i] })).finished }),
      store.createGroupPoints({ group: 'g', name: `n${round}`, kind: 'bookmark' }),
      (async () => { await (await store.restoreGroup({ group: 'g', name: 's' })).finished })(),
    ]
    const all = Promise.allSettled(work)
    const late = new Promise<'late'>(resolve => { setTimeout(resolve, 20_000, 'late').unref() })
    const results = await Promise.race([all, late])
    if (results === 'late') {
      t.fail(`round ${round}: they wait for each other`)
      process.exit(1)
    }
    t.same(results.flatMap(result => result.status === 'rejected' ? [String(result.reason)] : []), [], `round ${round}`)
    ended++
    for (const volume of volumes) {
      for (const { name, labels } of volume.points.list()) if (labels.auto === 'undo') await volume.points.delete(name)
    }
  }
  t.equal(ended, ROUNDS)
  t.same(volumes.map(({ points }) => points.get('s')!.pins), [[], []], 'no pin is left')
  await store.close()
})

t.test('two restores from one snapshot of another volume: it stays pinned until both are over', async t => {
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  const [volume, source] = await Promise.all(['a', 'b'].map(name => store.createVolume({ name, sizeBytes: 64 * G, grainBytes: G })))
  await source.write(0, 64 * G, Buffer.alloc(64 * G, 1), 0)
  await source.points.create({ name: 's', kind: 'snapshot' })
  const early: string[] = []
  const unpin = source.points.unpin.bind(source.points)
  source.points.unpin = (name, owner) => {
    if (volume.inheriting) early.push(owner)
    return unpin(name, owner)
  }
  const options = { from: 's', sourceVolume: source, bytesPerSecond: 1000 * G }
  const jobs = await Promise.all([volume.restore(options), volume.restore(options)])
  await Promise.all(jobs.map(({ finished }) => finished))
  t.same(early, [], 'never let go of while something is copied from it')
  t.same(source.points.get('s')!.pins, [])
  await store.close()
})
