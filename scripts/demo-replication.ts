/**
 * A demonstration of replication: `make demo-replication`. A volume is mirrored to another server, which is killed and catches up; and to
 * a second volume of its own store, which is split, worked on, and brought together again in both directions.
 */
import { diskKind, expect } from './demo/disk.js'
import { Stage } from './demo/stage.js'

await Stage.play(async stage => {
  const kind = await diskKind(stage)
  stage.say(`Two servers; A has a volume (${kind.words}), B has room for a copy.`)
  const a = await stage.serve('A', { name: 'disk', size: '64MiB' })
  const b = await stage.serve('B', { name: 'backup', size: '64MiB' })
  const backup = b.tcpUri('backup')
  let disk = await kind.attach(a, 'disk', true)
  await disk.put('first', 'second')

  stage.say('Mirror it to B, by a cycle every second. Writes never wait for B.')
  await stage.nbdelta(a, 'mirror', 'create', 'dr', 'disk', backup, '--interval', '1s')
  await disk.still(async () => {
    await stage.nbdelta(a, 'mirror', 'sync', 'dr')
    await stage.compare(a.uri('disk'), backup)
  })
  await stage.mirror(a, 'dr', 'state', 'in sync', 'lag')

  stage.say('B is gone; work goes on. What B misses is one bit for every 4 KiB that changes.')
  await stage.kill(b)
  await disk.put('third')
  await stage.nbdelta(a, 'mirror', 'list')
  await stage.again(b)
  await disk.still(async () => {
    await stage.nbdelta(a, 'mirror', 'sync', 'dr')
    await stage.mirror(a, 'dr', 'state', 'in sync', 'lag', 'last data')
    await stage.compare(a.uri('disk'), backup)
  })

  stage.say('A second mirror of the same volume, to a volume of the same store. Clients see its last declared point, read-only.')
  await stage.nbdelta(a, 'mirror', 'create', 'test', 'disk', 'disk-test', '--interval', '1s')
  await stage.nbdelta(a, 'mirror', 'sync', 'test')

  stage.say('Split: both sides are on their own, and both are worked on.')
  await stage.nbdelta(a, 'mirror', 'split', 'test')
  let test = await kind.attach(a, 'disk-test')
  await test.put('experiment')
  await test.remove('first')
  await expect(test, 'second', 'third', 'experiment')
  await test.detach()
  await disk.put('fourth')
  await expect(disk, 'first', 'second', 'third', 'fourth')

  stage.say('Resync forward: the copy gets what the source has. Only what either side changed is looked at.')
  await stage.nbdelta(a, 'mirror', 'resync', 'test', '--dry-run')
  await disk.still(async () => {
    await stage.nbdelta(a, 'mirror', 'resync', 'test')
    await stage.compare(a.uri('disk'), a.uri('disk-test'))
  })
  stage.say('The experiment is not lost: a snapshot keeps it.')
  await stage.nbdelta(a, 'snapshot', 'list', 'disk-test', '--quiet')

  stage.say('Split again; this time the work on the copy is what shall stay: resync in reverse.')
  await stage.nbdelta(a, 'mirror', 'split', 'test')
  test = await kind.attach(a, 'disk-test')
  await test.put('better')
  await test.detach()
  await disk.remove('second')
  await disk.detach()
  await stage.nbdelta(a, 'mirror', 'resync', 'test', '--reverse')
  disk = await kind.attach(a, 'disk')
  await expect(disk, 'first', 'second', 'third', 'fourth', 'better')

  stage.say('All three are alike, and that can be challenged. The mirror to B took the reversal for what it is: a change.')
  await disk.detach()
  for (const mirror of ['dr', 'test']) await stage.nbdelta(a, 'mirror', 'verify', mirror)
  await stage.nbdelta(a, 'mirror', 'list')
  await stage.compare(a.uri('disk'), a.uri('disk-test'))
  await stage.compare(a.uri('disk'), backup)
})
