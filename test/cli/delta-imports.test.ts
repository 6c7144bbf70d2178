// B19: the import of a delta that is cut short, by a damaged stream or by a kill, leaves the volume exactly at the delta's base.
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { byteAt, clean, put, serve, temporaryFolder, type Served } from './launcher.js'

const MIB = 2 ** 20
const LAUNCHER = fileURLToPath(new URL('../../../bin/nbdelta.cjs', import.meta.url))
t.setTimeout(300_000)

const later = (ms: number) => new Promise(resolve => { setTimeout(resolve, ms) })

/** `copy` is at `one`, and the file leads to `two`, which is longer and differs in all of its first 8 MiB. */
async function prepared(t: Parameters<typeof serve>[0], folder: string): Promise<Served> {
  const served = await serve(t, join(folder, 'store'), ['--create-volume', 'disk=16MiB', '--create-volume', 'copy=16MiB'])
  const { store, json } = served
  await put(store, 'disk', 0, 1, 12 * MIB)
  await json('snapshot', 'create', 'disk', 'one')
  await json('delta', 'export', 'disk', 'one', join(folder, 'full'))
  await json('delta', 'import', 'copy', join(folder, 'full'))
  await json('volume', 'resize', 'disk', '--size', '24MiB')
  await put(store, 'disk', 0, 2, 8 * MIB)
  await put(store, 'disk', 20 * MIB, 3)
  await json('snapshot', 'create', 'disk', 'two')
  await json('delta', 'export', 'disk', 'two', join(folder, 'delta'), '--from', 'one')
  return served
}

async function isAtBase(t: Parameters<typeof serve>[0], { store, json }: Served, what: string): Promise<void> {
  for (const offset of [0, MIB, 4 * MIB, 8 * MIB - 4096, 11 * MIB]) t.equal(await byteAt(store, 'copy', offset), 1, `${what}: ${offset}`)
  t.match(await json('volume', 'show', 'copy'), { sizeBytes: 16 * MIB })
  for (let i = 0; i < 100; i++) {
    const points = await json('snapshot', 'list', 'copy') as { name: string, pins: unknown[] }[]
    if (points.length === 1 && points[0]!.pins.length === 0) return
    await later(100)
  }
  t.fail(`${what}: something is left of it: ${JSON.stringify(await json('snapshot', 'list', 'copy'))}`)
}

t.test('a stream that breaks off', async t => {
  const folder = temporaryFolder(t)
  const served = await prepared(t, folder)
  const { store, ask, json } = served
  const whole = readFileSync(join(folder, 'delta'))
  for (const [what, bytes] of [['cut in the middle', whole.subarray(0, whole.length / 2)], ['the end is missing', whole.subarray(0, -20)]] as const) {
    writeFileSync(join(folder, 'cut'), bytes)
    t.match(await ask('delta', 'import', 'copy', join(folder, 'cut')), { code: 8, stderr: /copy is at delta-[0-9a-f]+ again\nhint: import again/ })
    await isAtBase(t, served, what)
  }
  await json('delta', 'import', 'copy', join(folder, 'delta'))
  t.same([await byteAt(store, 'copy', 0), await byteAt(store, 'copy', 20 * MIB)], [2, 3], 'and then the whole of it')
  t.match(await json('snapshot', 'list', 'copy'), [{ pins: { length: 0 } }, { pins: { length: 0 } }])
})

/** Half of the delta is imported into `copy` when its server is killed. The server that is started then. */
async function killedMeanwhile(t: Parameters<typeof serve>[0], { store, json, child, ended }: Served, folder: string): Promise<Served> {
  const whole = readFileSync(join(folder, 'delta'))
  const command = spawn(process.execPath, [LAUNCHER, 'delta', 'import', 'copy', '-', '--store', store], { stdio: ['pipe', 'ignore', 'ignore'] })
  command.stdin.on('error', () => undefined)
  command.stdin.write(whole.subarray(0, whole.length / 2))
  for (let done = 0; done < 2 * MIB; await later(50)) {
    const job = (await json('job', 'list') as { doneBytes: number, state: string }[]).find(({ state }) => state === 'running')
    done = job?.doneBytes ?? 0
  }
  child.kill('SIGKILL')
  await ended
  command.kill('SIGKILL')
  return serve(t, store)
}

t.test('a server that is killed meanwhile', async t => {
  const folder = temporaryFolder(t)
  const again = await killedMeanwhile(t, await prepared(t, folder), folder)
  const { store, json } = again
  await isAtBase(t, again, 'after the kill')
  await json('delta', 'import', 'copy', join(folder, 'delta'))
  t.same([await byteAt(store, 'copy', 0), await byteAt(store, 'copy', 20 * MIB)], [2, 3], 'and then the whole of it')
})

t.test('a server that is killed meanwhile, when an earlier import had led to the same point', async t => {
  const folder = temporaryFolder(t)
  const served = await prepared(t, folder)
  const [{ name: one }] = await served.json('snapshot', 'list', 'copy') as [{ name: string }]
  await served.json('delta', 'import', 'copy', join(folder, 'delta'))
  await served.json('volume', 'resize', 'copy', '--size', '16MiB', '--shrink')
  await served.json('snapshot', 'restore', 'copy', one)
  const { store, json } = await killedMeanwhile(t, served, folder)
  for (const offset of [0, MIB, 4 * MIB, 8 * MIB - 4096, 11 * MIB]) t.equal(await byteAt(store, 'copy', offset), 1, `${offset}`)
  t.match(await json('volume', 'show', 'copy'), { sizeBytes: 16 * MIB })
})

t.test('a server that is killed amid an export: the next one lets go of the points', async t => {
  const folder = temporaryFolder(t)
  const { store, json, child, ended } = await prepared(t, folder)
  const command = spawn(process.execPath, [LAUNCHER, 'delta', 'export', 'disk', 'two', '-', '--from', 'one', '--store', store], { stdio: ['ignore', 'pipe', 'ignore'] })
  const pins = async (ask: Served['json']) => (await ask('snapshot', 'list', 'disk') as { pins: unknown[] }[]).map(point => point.pins.length)
  while ((await pins(json)).includes(0)) await later(50)
  child.kill('SIGKILL')
  await ended
  command.kill('SIGKILL')
  const again = await serve(t, store)
  t.same(await pins(again.json), [0, 0])
  t.equal((await again.ask('volume', 'delete', 'disk')).code, 0)
})

t.test('a dry run reads the header, refuses what the import would, and changes nothing', async t => {
  const folder = temporaryFolder(t)
  const served = await prepared(t, folder)
  const { store, ask, json } = served
  await json('delta', 'export', 'disk', 'one', join(folder, 'back'), '--from', 'two', '--compress', 'gzip')
  const whole = readFileSync(join(folder, 'delta'))
  // Of an import that is killed by what comes behind the header nothing is said.
  writeFileSync(join(folder, 'cut'), whole.subarray(0, whole.length / 2))
  writeFileSync(join(folder, 'other'), 'no delta, whatever its name may say, and as long as a header')
  await json('volume', 'create', 'empty', '--size', '16MiB')
  await json('volume', 'create', 'own', '--size', '16MiB')
  await put(store, 'own', 0, 9)
  const points = await json('snapshot', 'list', 'disk') as { name: string, uuid: string }[]
  const uuids = Object.fromEntries(points.map(({ name, uuid }) => [name, uuid]))
  const [{ name: base }] = await json('snapshot', 'list', 'copy') as [{ name: string }]
  const dry = (volume: string, file: string) => ask('delta', 'import', volume, join(folder, file), '--dry-run')
  const two = uuids.two!.slice(0, 8)
  t.match(await dry('copy', 'delta'), { code: 0, stdout: new RegExp(`^would grow copy from 16 MiB to 24 MiB
would bring copy from ${base}, its base, to point ${uuids.two} by a stream of 8 MiB, of which only the header has been read
would make snapshot delta-${two} of copy\n$`) })
  t.match(await dry('copy', 'cut'), { code: 0, stdout: /stream of 4 MiB/ })
  t.match(await dry('empty', 'full'), { code: 0, stdout: new RegExp(`^would fill empty, which is empty, with point ${uuids.one} by`) })
  t.match(await json('delta', 'import', 'copy', join(folder, 'delta'), '--dry-run'), { target: 'copy', changed: false, dryRun: true, steps: { length: 3 } })
  const refused: readonly [string, string, number, RegExp][] = [
    ['empty', 'delta', 4, /starts from point .*, the target is at nothing/], ['own', 'delta', 4, /is at point content of its own/],
    ['copy', 'full', 4, /is at point .* already/], ['copy', 'back', 4, /is at point .* already/],
    ['own', 'full', 4, /is at point content of its own/], ['copy', 'other', 8, /no record begins here/],
    ['copy', 'none', 3, /none/], ['none', 'delta', 3, /no volume none/],
  ]
  for (const [volume, file, code, words] of refused) {
    const told = await dry(volume, file)
    clean(t, told, code, words, `${file} into ${volume}`)
    t.same(await ask('delta', 'import', volume, join(folder, file)), told, `${file} into ${volume}: the import says the same`)
  }
  await isAtBase(t, served, 'after all that')
  const { length: jobs } = await json('job', 'list') as unknown[]

  await t.test('of standard input', async t => {
    const from = (text: string): { code: number | null, stdout: string, stderr: string } => {
      const { status, stdout, stderr } = spawnSync('bash', ['-c', text], { encoding: 'utf8', timeout: 20_000, cwd: folder })
      return { code: status, stdout, stderr }
    }
    const dryRun = `${process.execPath} ${LAUNCHER} delta import copy - --dry-run --store ${store}`
    t.match(from(`${dryRun} < delta`), { code: 0, stdout: new RegExp(`would bring copy from ${base}, its base, to point ${uuids.two} by a stream, of which`) })
    const held = spawn(process.execPath, [LAUNCHER, 'delta', 'import', 'copy', '-', '--dry-run', '--store', store], { stdio: ['pipe', 'ignore', 'ignore'] })
    t.teardown(() => { held.kill('SIGKILL') })
    held.stdin.on('error', () => undefined).write(whole.subarray(0, 4096))
    t.equal(await new Promise(resolve => { held.on('close', resolve) }), 0, 'the rest is not waited for')
    t.match(from(`${dryRun} < full`), { code: 4, stderr: /is at point .* already/ })
    t.match(from(`${dryRun} < other`), { code: 8, stderr: /the stream: .*no record begins here/ })
    t.match(from(`${dryRun} < /dev/null`), { code: 8, stderr: /ends before its end record/ })
    t.match(from(`${dryRun} --no-wait < delta`), { code: 2, stderr: /leave --no-wait out/ })
  })

  await t.test('while standard input says nothing others go on, and Ctrl-C ends it', async t => {
    const silent = spawn(process.execPath, [LAUNCHER, 'delta', 'import', 'copy', '-', '--dry-run', '--store', store], { stdio: ['pipe', 'pipe', 'pipe'] })
    const ended = new Promise(resolve => { silent.on('close', resolve) })
    t.teardown(() => { silent.kill('SIGKILL') })
    await later(1000)
    const others = await Promise.race([ask('snapshot', 'create', 'copy', 'meanwhile'), later(10_000).then(() => 'they wait')])
    t.match(others, { code: 0 })
    silent.kill('SIGINT')
    t.equal(await ended, 130)
    t.match(await ask('snapshot', 'delete', 'copy', 'meanwhile'), { code: 0 })
  })

  await put(store, 'copy', 12 * MIB, 5)
  t.match(await dry('copy', 'delta'), { code: 4, stderr: /has changed since/ })
  t.match(await json('job', 'list'), { length: jobs }, 'no dry run is a job')
  await json('snapshot', 'restore', 'copy', base)
  t.match(await ask('delta', 'import', 'copy', join(folder, 'delta')), { code: 0 })
  t.match(await dry('copy', 'delta'), { code: 4, stderr: /is at point .* already/ })
  t.match(await dry('copy', 'back'), { code: 0, stdout: /^would shrink copy from 24 MiB to 16 MiB\nwould bring .* to point .*, an older one, by a stream of/ })
})

t.test('back to where it was, and forth again: a point of that name is there already', async t => {
  const folder = temporaryFolder(t)
  const { store, json } = await prepared(t, folder)
  await json('delta', 'export', 'disk', 'one', join(folder, 'back'), '--from', 'two')
  for (const [file, first, sizeBytes] of [['delta', 2, 24 * MIB], ['back', 1, 16 * MIB], ['delta', 2, 24 * MIB]] as const) {
    t.match(await json('delta', 'import', 'copy', join(folder, file)), { state: 'done' })
    t.equal(await byteAt(store, 'copy', 0), first)
    t.match(await json('volume', 'show', 'copy'), { sizeBytes })
  }
  const points = await json('snapshot', 'list', 'copy') as { name: string }[]
  const [one, two] = points.map(({ name }) => name)
  t.same(points.map(({ name }) => name), [one, two, `${one}.2`, `${two}.2`])
})

/** Two imports fail, and bringing `copy` back as well: there is no room to copy what the first was undone by. Returns the base. */
async function leftMixed(t: Parameters<typeof serve>[0], { store, ask, json }: Served, folder: string): Promise<string> {
  const [{ name: base }] = await json('snapshot', 'list', 'copy') as [{ name: string }]
  const whole = readFileSync(join(folder, 'delta'))
  writeFileSync(join(folder, 'cut'), whole.subarray(0, whole.length / 2))
  await json('volume', 'set-budget', 'copy', '--limit', '6MiB')
  t.match(await ask('delta', 'import', 'copy', join(folder, 'cut')), { code: 8, stderr: /copy is at delta-[0-9a-f]+ again/ })
  const outcome = await ask('delta', 'import', 'copy', join(folder, 'delta'))
  t.match(outcome, { code: 6, stderr: /content of volume copy is a mixture now.*\nhint: nbdelta volume reopen copy/ })
  await t.rejects(byteAt(store, 'copy', 0), 'no client gets it')
  t.match(await ask('delta', 'import', 'copy', join(folder, 'delta')), { code: 4, stderr: /an import of a delta was cut short/ })
  return base
}

t.test('one that cannot be undone at once is no client\'s until it is', async t => {
  const folder = temporaryFolder(t)
  const served = await prepared(t, folder)
  await leftMixed(t, served, folder)
  served.child.kill('SIGKILL')
  await served.ended
  const again = await serve(t, served.store)
  const { store, ask, json } = again
  t.equal(await byteAt(store, 'disk', 0), 2, 'the server starts, and serves the others')
  await t.rejects(byteAt(store, 'copy', 0), 'no client gets it')
  await json('volume', 'set-budget', 'copy', '--unlimited')
  // It is refused as long as the earlier restore is copied.
  while ((await ask('volume', 'reopen', 'copy')).code === 5) await later(500)
  t.equal(await byteAt(store, 'copy', 0), 1)
  t.match(await json('snapshot', 'list', 'copy'), [{ pins: { length: 0 } }])
  await put(store, 'copy', 0, 7)
  again.child.kill('SIGKILL')
  await again.ended
  t.equal(await byteAt((await serve(t, store)).store, 'copy', 0), 7, 'what is written then stays')
})

for (const way of ['a restore', 'its mirror']) {
  t.test(`one that ${way} has undone by hand is not undone again`, async t => {
    const folder = temporaryFolder(t)
    const served = await prepared(t, folder)
    const { store, json, child, ended } = served
    await json('mirror', 'create', 'm', 'copy', 'beside', '--interval', '1h')
    await json('mirror', 'sync', 'm')
    await json('mirror', 'split', 'm')
    const base = await leftMixed(t, served, folder)
    await json('volume', 'set-budget', 'copy', '--unlimited')
    if (way === 'a restore') await json('snapshot', 'restore', 'copy', base)
    else await json('mirror', 'resync', 'm', '--reverse')
    await put(store, 'copy', 0, 7)
    child.kill('SIGKILL')
    await ended
    t.equal(await byteAt((await serve(t, store)).store, 'copy', 0), 7, 'what was written then stays')
  })
}
