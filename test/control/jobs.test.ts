// Order and jobs: changes of one volume never overlap, looking is never held up, transfers end with who waits for them.
import t from 'tap'
import { connectControl } from '../../src/control/client.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { KeyedMutex } from '../../src/device/keyed-mutex.js'
import { startControl } from './socket.js'
import type { JobRow } from '../../src/control/admin.js'

const soon = (ms = 20): Promise<void> => new Promise(resolve => { setTimeout(resolve, ms) })

t.test('the mutex: order per key, no waiting across keys, nothing kept', async t => {
  const mutex = new KeyedMutex()
  const seen: string[] = []
  const step = (key: string, text: string, ms: number): Promise<void> =>
    mutex.run(key, async () => { await soon(ms); seen.push(text) })
  const failing = mutex.run('a', async () => { await soon(5); throw new Error('planted') })
  await Promise.all([t.rejects(failing, { message: 'planted' }), step('a', 'a1', 20), step('a', 'a2', 1), step('b', 'b1', 1)])
  t.same(seen, ['b1', 'a1', 'a2'])
  t.equal(mutex.size, 0)
})

t.test('changes of one volume run one after the other, reads go through', async t => {
  const { path, fake } = await startControl(t)
  const clients = await Promise.all([1, 2, 3].map(() => connectControl(path)))
  t.teardown(() => { for (const client of clients) client.close() })
  await clients[0]!.call('volume.create', { name: 'a', size: 512 })
  fake.delayMs = 30
  const changes = [1024, 2048, 3072, 4096].map((size, index) => clients[index % 3]!.call('volume.resize', { name: 'a', size }))
  await soon(10)
  t.equal(fake.changing, 1)
  t.equal((await clients[1]!.call('volume.list', {}) as unknown[]).length, 1)
  t.equal(fake.changing, 1, 'the list was answered while a change was running')
  await Promise.all(changes)
  t.equal(fake.overlaps, 0)
})

t.test('changes of different volumes overlap', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  fake.delayMs = 30
  await Promise.all(['a', 'b', 'c'].map(name => client.call('volume.create', { name, size: 512 })))
  t.ok(fake.overlaps > 0)
})

t.test('a transfer: progress, result, remembered', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  const seen: JobRow[] = []
  const done = client.call('volume.import', { name: 'a', path: '/x' }, row => { seen.push(row) })
  for (let i = 0; i < 100 && seen.length === 0; i++) await soon()
  t.match(seen, [{ id: 1, state: 'running', doneBytes: 1, totalBytes: 100 }])
  await t.rejects(client.call('volume.delete', { name: 'a' }), { code: 'busy', message: /job 1/, hint: /job cancel 1/ })
  await t.rejects(client.call('volume.export', { name: 'a', path: '/y' }), { code: 'busy' })
  await t.rejects(client.call('volume.create', { name: 'a', size: 512 }), { code: 'busy' })
  await t.rejects(client.call('volume.resize', { name: 'a', size: 512 }), { code: 'busy' })
  for (const method of ['export.hide', 'export.unhide'] as const) {
    await t.rejects(client.call(method, { name: 'a' }), { code: 'busy' }, 'nobody attaches to half an image')
  }
  fake.finish.get('a')!()
  t.match(await done, { id: 1, kind: 'import', state: 'done', doneBytes: 100, error: null })
  t.match(await client.call('job.list', {}), [{ id: 1, state: 'done' }])
  t.match(await client.call('job.cancel', { id: 1 }), { state: 'done' }, 'what has ended stays as it is')
  await t.rejects(client.call('job.show', { id: 2 }), { code: 'not-found' })
})

t.test('no-wait returns at once, cancel waits for the cleaning up', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  t.match(await client.call('volume.export', { name: 'a', path: '/x', wait: false }), { id: 1, state: 'running' })
  client.close()
  await soon()
  t.same(fake.log, [], 'it goes on without its client')
  const other = await connectControl(path)
  t.teardown(() => { other.close() })
  t.match(await other.call('status', {}), { jobsRunning: 1 })
  t.match(await other.call('job.cancel', { id: 1 }), { state: 'cancelled' })
  t.same(fake.log, ['cleaned a'])
})

t.test('cancelled while somebody waits: the waiter is told', async t => {
  const { path } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  const done = client.call('volume.import', { name: 'a', path: '/x' })
  await soon()
  await client.call('job.cancel', { id: 1 })
  await t.rejects(done, { code: 'cancelled', message: /import of a was cancelled/, hint: 'half a copy; copy again' })
})

t.test('what a cancelled job says is what it left, or what else went wrong', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  const rows: [NbdeltaError, string | undefined][] = [
    [new NbdeltaError('cancelled', 'words of a lower floor, whichever'), undefined],
    [new NbdeltaError('cancelled', 'words; half of it', { left: 'half of it' }), 'half of it'],
    [new NbdeltaError('io', 'cleaning up failed', { hint: 'look there' }), 'cleaning up failed'],
  ]
  for (const [index, [error, hint]] of rows.entries()) {
    fake.cancelled = error
    const done = client.call('volume.import', { name: 'a', path: '/x' })
    await soon()
    await client.call('job.cancel', { id: index + 1 })
    const told = await done.then(() => undefined, (caught: unknown) => caught as NbdeltaError)
    t.match(told, { code: 'cancelled', message: 'the import of a was cancelled' })
    t.equal(told?.hint ?? undefined, hint, error.message)
  }
})

t.test('a waiting client that is gone takes its transfer with it', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  const done = client.call('volume.import', { name: 'a', path: '/x' })
  done.catch(() => {})
  await soon()
  client.close()
  await t.rejects(done, { code: 'unreachable' })
  await soon()
  const other = await connectControl(path)
  t.teardown(() => { other.close() })
  t.match(await other.call('job.show', { id: 1 }), { state: 'cancelled' })
  t.same(fake.log, ['cleaned a'])
})

t.test('delete --force cancels the job first; a dry run does not', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  await client.call('volume.create', { name: 'a', size: 512 })
  await client.call('volume.import', { name: 'a', path: '/x', overwrite: true, wait: false })
  t.match(await client.call('volume.delete', { name: 'a', force: true, dryRun: true }), { changed: false, dryRun: true })
  t.notOk(fake.log.includes('cleaned a'))
  t.match(await client.call('volume.delete', { name: 'a', force: true }), { changed: true })
  t.ok(fake.log.includes('cleaned a'))
})

t.test('stop: transfers are cancelled, changes refused, looking still works', async t => {
  const { path, fake, server } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  const done = client.call('volume.import', { name: 'a', path: '/x' })
  done.catch(() => {})
  await soon()
  await server.stop()
  t.same(fake.log, ['cleaned a'])
  await t.rejects(done, { code: 'cancelled' })
  await t.rejects(client.call('volume.create', { name: 'b', size: 512 }), { code: 'shutting-down' })
  t.match(await client.call('volume.list', {}), [])
})

t.test('a restore has switched before it is answered, and goes on without its client', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  await client.call('volume.create', { name: 'a', size: 512 })
  await client.call('snapshot.create', { volume: 'a', name: 's' })
  t.match(await client.call('snapshot.restore', { volume: 'a', name: 's', dryRun: true }), { dryRun: true, steps: ['copy a'] })
  t.notOk(fake.log.includes('switched a'), 'a dry run changes nothing')
  const done = client.call('snapshot.restore', { volume: 'a', name: 's' })
  done.catch(() => {})
  await soon()
  t.ok(fake.log.includes('switched a'))
  client.close()
  await t.rejects(done, { code: 'unreachable' })
  await soon()
  const other = await connectControl(path)
  t.teardown(() => { other.close() })
  t.match(await other.call('job.list', {}), [{ id: 1, kind: 'restore', state: 'running' }], 'nobody took it back')
  await t.rejects(other.call('snapshot.restore', { volume: 'a', name: 's' }), { code: 'busy', message: /restore/ })
  await other.call('snapshot.create', { volume: 'a', name: 'meanwhile' })
  t.match(await other.call('job.cancel', { id: 1 }), { state: 'cancelled' })
})

t.test('a group restore holds all its volumes', async t => {
  const { path, fake } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  await client.call('group.create', { name: 'g', volumes: ['a', 'b'] })
  t.match(await client.call('group.restore', { group: 'g', name: 's', wait: false }), { id: 1, kind: 'group restore', volume: 'g' })
  for (const name of ['a', 'b']) await t.rejects(client.call('volume.resize', { name, size: 512 }), { code: 'busy' })
  fake.finish.get('g')!()
  await soon()
  t.match(await client.call('job.show', { id: 1 }), { state: 'done' })
})

t.test('stop leaves restores alone, and says so to who waits', async t => {
  const { path, fake, server } = await startControl(t)
  const client = await connectControl(path)
  t.teardown(() => { client.close() })
  await client.call('volume.create', { name: 'a', size: 512 })
  const done = client.call('volume.promote', { name: 'a' })
  done.catch(() => {})
  await soon()
  await server.stop()
  await t.rejects(done, { code: 'shutting-down', message: /promotion of a goes on/ })
  t.notOk(fake.log.includes('cleaned a'))
})
