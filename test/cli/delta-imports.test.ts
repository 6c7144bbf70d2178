// B19: the import of a delta that is cut short, by a damaged stream or by a kill, leaves the volume exactly at the delta's base.
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { byteAt, put, serve, temporaryFolder, type Served } from './launcher.js'

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
