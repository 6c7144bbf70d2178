// Where `serve` cannot listen: nothing is left behind of a store that it would have made, and one that is there stays as it is.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { byteAt, clean, nbdelta, put, serve, temporaryFolder } from './launcher.js'

t.test('where nothing can listen no store is made', async t => {
  const folder = temporaryFolder(t)
  const [plain, secret, sub] = ['plain', 'secret', 'sub'].map(name => join(folder, name)) as [string, string, string]
  writeFileSync(plain, 'precious')
  writeFileSync(secret, 'a secret of sixteen bytes\n', { mode: 0o600 })
  mkdirSync(sub)
  const listening = (where: object): Promise<ReturnType<typeof createServer>> => new Promise(resolve => {
    const server = createServer(socket => { socket.destroy() })
    server.listen(where, () => { resolve(server) })
    t.teardown(() => { server.close() })
  })
  const { port } = (await listening({ port: 0, host: '127.0.0.1' })).address() as { port: number }
  const live = join(folder, 'live.sock')
  await listening({ path: live })
  const used = `tcp:127.0.0.1:${port}`
  const free = `unix:${folder}/free.sock`
  const peer = (at: string): string[] => ['--peer', at, '--peer-secret', secret]
  // Names in the store's own folder are judged: nothing is there yet that could refuse them.
  const rows: readonly [(store: string) => string[], number, RegExp][] = [
    [() => ['--nbd', used], 5, new RegExp(`listen on ${used}`)], [() => peer(used), 5, new RegExp(`listen on ${used}`)],
    [() => ['--nbd', free, '--nbd', used], 5, new RegExp(used)], [() => ['--nbd', 'tcp:203.0.113.7:1'], 7, /203\.0\.113\.7/],
    [() => ['--nbd', `unix:${live}`], 5, /listen on unix:.*live\.sock/], [() => peer(`unix:${live}`), 5, /live\.sock/],
    [() => ['--nbd', `unix:${plain}`], 5, /plain/], [() => ['--nbd', `unix:${sub}`], 5, /sub/], [() => peer(`unix:${sub}`), 5, /sub/],
    [() => ['--control', plain], 4, /plain is there and is no socket\nhint: .*--control/], [() => ['--control', sub], 4, /is no socket/],
    [() => ['--control', live], 5, /another server answers/],
    [() => ['--nbd', free, '--control', join(folder, 'free.sock')], 2, /free\.sock .*twice/],
    [store => peer(`unix:${store}/nbd.sock`), 2, /nbd\.sock .*twice/],
    [store => ['--control', store], 2, /is the store itself/], [store => ['--nbd', `unix:${store}`], 2, /is the store itself/],
    [store => ['--nbd', `unix:${store}/catalog.log`], 2, /catalog\.log: .*own/],
    [store => ['--control', `${store}/volumes`], 2, /volumes: .*own/],
  ]
  for (const [index, [args, code, message]] of rows.entries()) {
    const store = join(folder, `store-${index}`)
    const isEmpty = index % 2 === 0
    if (isEmpty) mkdirSync(store)
    const words = ['serve', '--store', store, '--log-level', 'silent', '--create-volume', 'x=1MiB', ...args(store)]
    clean(t, await nbdelta(words), code, message, words.join(' '))
    t.strictSame(existsSync(store) && readdirSync(store), isEmpty && [], `${words.join(' ')}: nothing is made`)
  }
  t.strictSame(readdirSync(folder).filter(name => !name.startsWith('store')).sort(), ['live.sock', 'plain', 'secret', 'sub'])
  t.equal(readFileSync(plain, 'utf8'), 'precious')

  const store = join(folder, 'there')
  const first = await serve(t, store, ['--create-volume', 'x=1MiB'])
  await put(store, 'x', 0, 7)
  clean(t, await nbdelta(['serve', '--store', store, '--nbd', used, '--log-level', 'silent']), 5, /the store is in use/, 'in use comes first')
  first.child.kill('SIGTERM')
  await first.ended
  clean(t, await nbdelta(['serve', '--store', store, '--nbd', used, '--log-level', 'silent']), 5, new RegExp(used), 'a store that is there')
  await serve(t, store)
  t.equal(await byteAt(store, 'x', 0), 7, 'is as it was')
  await serve(t, join(folder, 'last'), ['--nbd', free, ...peer(`unix:${folder}/peer.sock`), '--control', join(folder, 'c.sock')])
})
