// The thread pool's reserve: most threads sleep; when something clogs the others, enough wake; then they go back
// to sleep; and a process with sleeping threads ends. In a child, because the pool's size is fixed at its first use.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

interface Told { readonly parked: number, readonly clogged: number[], readonly woken: number, readonly calm: number }

function child(scene: string, threads: number): Promise<{ code: number | null, signal: string | null, told: Told | undefined }> {
  const path = fileURLToPath(new URL('./thread-reserve-child.js', import.meta.url))
  const env = { ...process.env, UV_THREADPOOL_SIZE: String(threads) }
  const run = spawn(process.execPath, [path, scene], { env, stdio: ['ignore', 'pipe', 'inherit'], timeout: 90_000 })
  let text = ''
  run.stdout.on('data', (chunk: Buffer) => { text += chunk.toString() })
  return new Promise(resolve => run.on('close', (code, signal) => {
    resolve({ code, signal, told: text === '' ? undefined : JSON.parse(text) as Told })
  }))
}

t.test('a clogged pool is opened again, and calms down', { timeout: 120_000 }, async t => {
  const { code, told } = await child('clog', 48)
  t.equal(code, 0)
  t.equal(told!.parked, 32, 'all but 16 sleep')
  // 20 to 32 ms where nothing else runs.
  t.ok(Math.min(...told!.clogged) < 2000, `waits of ${told!.clogged.map(ms => ms.toFixed(0)).join(', ')} ms`)
  t.ok(told!.woken < 32, 'some were woken')
  t.equal(told!.calm, 32, 'and sleep again')
})

t.test('threads that sleep keep no process from its end', async t => {
  t.strictSame(await child('exit', 48), { code: 3, signal: null, told: undefined })
  t.strictSame(await child('release', 48), { code: 0, signal: null, told: undefined })
})

t.test('a pool that is smaller than the environment says is left alone', async t => {
  const { told, code } = await child('late', 4)
  t.equal(told!.parked, 0)
  t.ok(told!.clogged[0]! < 1000, 'and works')
  t.equal(code, 0)
})

t.test('a small pool has no reserve', async t => {
  const { told, code } = await child('small', 16)
  t.equal(told!.parked, 0)
  t.equal(code, 0)
})
