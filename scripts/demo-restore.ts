/**
 * A demonstration of a restore under replication: `make demo-restore`. Bad changes have reached the other server already; the volume is
 * restored while cycles run, is usable at once, and only what differs crosses the wire. Then the restore itself is undone.
 */
import { diskKind, expect } from './demo/disk.js'
import { Stage } from './demo/stage.js'

await Stage.play(async stage => {
  const kind = await diskKind(stage)
  stage.say(`A volume on server A (${kind.words}), mirrored to B every second.`)
  const a = await stage.serve('A', { name: 'disk', size: '256MiB' })
  const b = await stage.serve('B', { name: 'backup', size: '256MiB' })
  const backup = b.tcpUri('backup')
  let disk = await kind.attach(a, 'disk', true)
  await disk.put(...Array.from({ length: 24 }, (_, index) => `file${index + 1}`))
  await stage.nbdelta(a, 'mirror', 'create', 'dr', 'disk', backup, '--interval', '1s')
  await stage.nbdelta(a, 'mirror', 'sync', 'dr')
  await stage.mirror(a, 'dr', 'state', 'in sync', 'lag')

  stage.say('A snapshot. Nothing is copied for it.')
  await stage.nbdelta(a, 'snapshot', 'create', 'disk', 'monday')

  stage.say('Then a mistake, which is replicated as faithfully as everything else.')
  for (const name of ['file3', 'file4', 'file5']) await disk.remove(name)
  await disk.put('file1', 'junk')
  await disk.detach()
  await stage.nbdelta(a, 'mirror', 'sync', 'dr')
  await stage.compare(a.uri('disk'), backup)

  stage.say('Restore. The volume shows the snapshot at once and is used while it is still being copied; the mirror is behind by what differs,',
    'of 256 MiB, and that is counted at once.')
  await stage.nbdelta(a, 'mirror', 'pause', 'dr')
  await stage.nbdelta(a, 'snapshot', 'restore', 'disk', 'monday', '--rate', '256KiB/s', '--no-wait')
  await stage.mirror(a, 'dr', 'paused', 'lag')
  stage.say('One cycle by hand: it takes the restored content, whether or not that is copied yet, and nothing else.')
  await stage.nbdelta(a, 'mirror', 'sync', 'dr')
  await stage.nbdelta(a, 'job', 'list')
  await stage.compare(a.uri('disk'), backup)
  await stage.nbdelta(a, 'mirror', 'resume', 'dr')

  stage.say('Work goes on as well.')
  disk = await kind.attach(a, 'disk')
  await disk.put('written-while-it-copies')
  const files = Array.from({ length: 24 }, (_, index) => `file${index + 1}`)
  await expect(disk, ...files, 'written-while-it-copies')
  await disk.detach()
  await stage.nbdelta(a, 'mirror', 'sync', 'dr')
  await stage.compare(a.uri('disk'), backup)
  await stage.mirror(a, 'dr', 'state', 'in sync', 'lag')

  stage.say('A restore keeps what it replaced. So it can be undone, and that replicates as well.')
  await untilCopied(stage, a)
  const undo = (await stage.nbdelta(a, 'snapshot', 'list', 'disk', '--quiet')).split('\n').find(name => name.includes('undo'))
  if (!undo) throw new Error('there is no undo point')
  await stage.nbdelta(a, 'snapshot', 'restore', 'disk', undo.trim())
  disk = await kind.attach(a, 'disk')
  await expect(disk, ...files.filter(name => !['file3', 'file4', 'file5'].includes(name)), 'junk')
  await disk.detach()
  await stage.nbdelta(a, 'mirror', 'verify', 'dr')
  await stage.compare(a.uri('disk'), backup)
})

async function untilCopied(stage: Stage, server: Parameters<Stage['nbdelta']>[0]): Promise<void> {
  stage.note('# wait for the restore to end: nbdelta job list')
  for (;;) {
    const jobs = JSON.parse(await server.nbdelta('job', 'list', '--json')) as { state: string }[]
    if (!jobs.some(({ state }) => state === 'running')) return
    await new Promise(resolve => { setTimeout(resolve, 200) })
  }
}
