// A bug in the server: one fatal line that reaches whoever reads the log, an exit code of its own, never on with what nobody knows.
import { spawn } from 'node:child_process'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { has, nbdelta, serve, temporaryFolder } from './launcher.js'
import { NbdPeer } from './nbd-peer.js'
import type { ChildProcess } from 'node:child_process'
import type { Test } from 'tap'

const LAUNCHER = fileURLToPath(new URL('../../../bin/nbdelta.cjs', import.meta.url))
const PRELOAD = new URL('./bug-preload.js', import.meta.url).href
const EXIT_BUG = 70
const LINES = 500

interface Planted { readonly child: ChildProcess, readonly pid: number, readonly ended: Promise<number | null>, log(): string }

/** A server with a bug that waits for its signal, started `through` another program if given. */
async function plant(t: Test, store: string, bug: string, { node = '', through = [] as string[], level = 'info' } = {}): Promise<Planted> {
  const words = [process.execPath, LAUNCHER, 'serve', '--store', store, '--json', '--log-level', level, '--create-volume', 'disk=1MiB']
  const [program, ...rest] = through.length > 0 ? [...through, words.join(' '), '/dev/null'] : words
  const env = { PATH: process.env.PATH, HOME: tmpdir(), NODE_OPTIONS: `--import ${PRELOAD} ${node}`, PLANTED_BUG: bug }
  const child = spawn(program!, rest, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let [out, log] = ['', '']
  child.stderr.setEncoding('utf8').on('data', (text: string) => { log += text })
  const ended = new Promise<number | null>(resolve => { child.on('close', resolve) })
  const pid = await new Promise<number>((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text
      const ready = /\{"ready":true,"pid":(\d+).*\}/.exec(out)
      if (ready) resolve(Number(ready[1]))
    })
    void ended.then(code => { reject(new Error(`it ended with ${code}: ${log}`)) })
  })
  return { child, pid, ended, log: () => through.length > 0 ? out : log }
}

interface Line { readonly level: number, readonly msg: string, readonly origin?: string, readonly err?: { type: string, message: string, stack: string } }
const linesOf = (log: string): Line[] => log.trimEnd().split('\n').map(line => JSON.parse(line) as Line)

t.test('one fatal line with the stack, an exit code of its own, and nothing acknowledged is lost', async t => {
  const rows = [['rejection', '', 'unhandled rejection', 'a planted rejection'], ['exception', '', 'uncaught exception', 'a planted exception'],
    ['text', '', 'unhandled rejection', 'not an Error: \'just a word\''],
    ['rejection', '--unhandled-rejections=warn', 'unhandled rejection', 'a planted rejection']] as const
  for (const [bug, node, origin, message] of rows) {
    const store = join(temporaryFolder(t), 'store')
    const { child, ended, log } = await plant(t, store, bug, { node })
    const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
    await peer.write(4096, Buffer.alloc(4096, 7))
    child.kill('SIGUSR2')
    t.equal(await ended, EXIT_BUG, `${bug} ${node}`)
    await peer.closed
    const fatal = linesOf(log()).filter(({ level }) => level === 60)
    t.match(fatal, [{ msg: 'a bug in nbdelta: the server ends', origin, err: { message } }])
    t.equal(fatal.length, 1)
    if (bug !== 'text') t.match(fatal[0]!.err!.stack, /bug-preload/, 'the stack says where')
    t.equal(linesOf(log()).at(-1)!.level, 60, 'nothing was done after it')
    const again = await serve(t, store)
    const reader = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
    t.same(await reader.read(4096, 4096), Buffer.alloc(4096, 7))
    reader.detach()
    again.child.kill('SIGTERM')
    await again.ended
  }
})

t.test('what was logged before comes before it, whole', async t => {
  const store = join(temporaryFolder(t), 'store')
  const { child, ended, log } = await plant(t, store, 'exception', { level: 'debug' })
  const control = connect(join(store, 'control.sock')).on('error', () => {})
  let answers = ''
  control.setEncoding('utf8').on('data', (text: string) => { answers += text })
  for (let id = 1; id <= LINES; id++) control.write(`${JSON.stringify({ jsonrpc: '2.0', id, method: 'volume.show', params: { name: 'none' } })}\n`)
  while ((answers.match(/\n/g)?.length ?? 0) < LINES) await new Promise(resolve => { setTimeout(resolve, 1) })
  child.kill('SIGUSR2')
  t.equal(await ended, EXIT_BUG)
  const lines = linesOf(log())
  t.equal(lines.filter(({ msg }) => msg === 'command refused').length, LINES)
  t.equal(lines.at(-1)!.level, 60)
})

t.test('nobody reads the log any more: it ends all the same', async t => {
  const { child, ended } = await plant(t, join(temporaryFolder(t), 'store'), 'rejection')
  child.stderr!.destroy()
  child.kill('SIGUSR2')
  t.equal(await ended, EXIT_BUG)
})

t.test('on a terminal', { skip: has('script') ? false : 'script (util-linux) is not installed' }, async t => {
  const { pid, ended, log } = await plant(t, join(temporaryFolder(t), 'store'), 'rejection', { through: ['script', '-qec'] })
  process.kill(pid, 'SIGUSR2')
  t.equal(await ended, EXIT_BUG)
  t.match(log(), /FATAL.*a bug in nbdelta: the server ends[^]*a planted rejection[^]*bug-preload/, 'the line is there, with its stack')
})

t.test('the exit code is documented', async t => {
  t.match(await nbdelta(['serve', '--help']), { code: 0, stdout: /\n +70 +the server came upon a bug/ })
})
