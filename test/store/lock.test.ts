// One server for a store: whoever comes second is told who has it; a killed holder leaves nothing behind; of several that race
// one wins. With util-linux's flock, and with the socket where that is missing.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { ManualClock } from '../../src/device/clock.js'
import type { LogFacts, Logger } from '../../src/device/logger.js'
import { lockStore } from '../../src/store/lock.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'

const CHILD = fileURLToPath(new URL('./store-child.js', import.meta.url))
const MISSING = '/nonexistent/flock'
/** The two kinds of lock, by the tool they are asked for. */
const TOOLS: [string, string | undefined][] = [['flock', undefined], ['socket', MISSING]]
const KILLS = 5
const RACERS = 4
t.setTimeout(120_000)

const folder = mkdtempSync(join(tmpdir(), 'nbdelta-lock-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
let count = 0
const freshPath = (): string => join(folder, `${count++}`)

interface Opener {
  readonly child: ChildProcess
  /** Its first line. */
  readonly says: Promise<string>
  readonly ended: Promise<void>
}
function openInChild(path: string, tool: string | undefined): Opener {
  const argv = [CHILD, path, ...tool === undefined ? [] : [tool]]
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
  const says = new Promise<string>(resolve => {
    let text = ''
    child.stdout!.on('data', (chunk: Buffer) => {
      text += chunk.toString()
      if (text.includes('\n')) resolve(text.trim())
    })
    child.on('close', () => resolve(text.trim()))
  })
  return { child, says, ended: new Promise(resolve => { child.on('close', () => resolve()) }) }
}
async function kill({ child, ended }: Opener): Promise<void> {
  child.kill('SIGKILL')
  await ended
}

for (const [kind, tool] of TOOLS) {
  const options = tool === undefined ? {} : { flockTool: tool }
  t.test(`${kind}: the second is told who has it, and since when`, async t => {
    const path = freshPath()
    const holder = openInChild(path, tool)
    t.match(await holder.says, /^open /)
    const message = new RegExp(`in use by process ${holder.child.pid} since 20\\d\\d-.*Z \\(${path}/store.lock\\)`)
    await t.rejects(openStoreDirectory({ path, ...options }), { code: 'busy', message, hint: /stop that server/ })
    const signature = new RegExp(`^${holder.child.pid} `)
    t.match(readFileSync(join(path, 'store.lock'), 'utf8'), signature, 'the refused one left the file alone')
    await kill(holder)
  })

  t.test(`${kind}: D1: a killed server leaves a store that opens at once`, async t => {
    const path = freshPath()
    for (let i = 0; i < KILLS; i++) {
      const holder = openInChild(path, tool)
      t.match(await holder.says, /^open /)
      await kill(holder)
      const store = await openStoreDirectory({ path, ...options })
      t.strictSame(store.recovery, [])
      await store.close()
      await store.close()
    }
  })

  t.test(`${kind}: of several that race for a store that is not there yet, one wins`, async t => {
    const path = freshPath()
    const racers = Array.from({ length: RACERS }, () => openInChild(path, tool))
    const said = await Promise.all(racers.map(({ says }) => says))
    t.equal(said.filter(text => text.startsWith('open ')).length, 1, said.join('; '))
    t.equal(said.filter(text => text.startsWith('refused busy ')).length, RACERS - 1)
    await Promise.all(racers.map(kill))
    await (await openStoreDirectory({ path, ...options })).close()
  })
}

t.test('a server that finds the flock tool and one that does not exclude each other', async t => {
  for (const [[first, tool], [second, otherTool]] of [[TOOLS[0], TOOLS[1]], [TOOLS[1], TOOLS[0]]] as const) {
    const path = freshPath()
    const holder = openInChild(path, tool)
    t.match(await holder.says, /^open /)
    const options = otherTool === undefined ? {} : { flockTool: otherTool }
    await t.rejects(openStoreDirectory({ path, ...options }), { code: 'busy' }, `${first}, then ${second}`)
    await kill(holder)
    await (await openStoreDirectory({ path, ...options })).close()
  }
})

t.test('twice in one process is refused as well, and closing gives the lock back', async t => {
  const path = join(folder, 'once.lock')
  for (const [kind, tool] of TOOLS) {
    const clock = new ManualClock({ wallTime: new Date('2026-05-04T03:02:01Z') })
    const options = { path, clock, ...tool === undefined ? {} : { tool } }
    const lock = await lockStore(options)
    t.equal(lock.kind, kind)
    const message = new RegExp(`process ${process.pid} since 2026-05-04T03:02:01.000Z`)
    await t.rejects(lockStore(options), { code: 'busy', message })
    await lock.release()
    await lock.release()
    await (await lockStore(options)).release()
  }
})

t.test('the fallback is a warning in the log; a tool that fails otherwise is an error', async t => {
  const warnings: string[] = []
  const warn = (_: LogFacts, message: string): void => { warnings.push(message) }
  const logger: Logger = { debug: () => {}, info: () => {}, warn, error: () => {} }
  await (await lockStore({ path: join(folder, 'a.lock'), logger, tool: MISSING })).release()
  t.match(warnings, [/no '\/nonexistent\/flock' here \(Debian: util-linux\)/])
  await (await lockStore({ path: join(folder, 'a.lock'), logger })).release()
  t.equal(warnings.length, 1)
  const broken = lockStore({ path: join(folder, 'a.lock'), tool: '/usr/bin/env' })
  await t.rejects(broken, { code: 'io', message: /lock .*a\.lock: .* ended with/ })
  await t.rejects(lockStore({ path: join(folder, 'no/such/a.lock') }), { code: 'not-found' })
})

t.test('a holder that wrote nothing yet is still respected', async t => {
  const path = join(folder, 'silent.lock')
  const lock = await lockStore({ path })
  truncateSync(path, 0)
  await t.rejects(lockStore({ path }), { code: 'busy', message: /in use by another process/ })
  await lock.release()
})

t.test('a lock file that cannot be written to is a lock all the same, and is let go', async t => {
  const path = freshPath()
  symlinkSync('/dev/full', path)
  for (const turn of ['once', 'again']) {
    const lock = await lockStore({ path })
    t.type(lock.unsigned, Error, turn)
    await t.rejects(lockStore({ path }), { code: 'busy' }, turn)
    await lock.release()
  }
})
