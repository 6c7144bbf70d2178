/** What thread-reserve.test.ts runs in a process of its own: one scene, told as a line of JSON. */
import { execFileSync } from 'node:child_process'
import { constants, mkdtempSync, openSync, read, rmSync, stat, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parkThreads, threadReserve } from '../../src/device/thread-reserve.js'

const ACTIVE = 16
const WITHIN_MS = 30_000

/** Takes every active thread as a hung disk would; returns what lets them go. */
function clog(): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-clog-'))
  execFileSync('mkfifo', [join(folder, 'pipe')])
  const fd = openSync(join(folder, 'pipe'), constants.O_RDWR)
  rmSync(folder, { recursive: true })
  for (let i = 0; i < ACTIVE; i++) {
    threadReserve.noteUse()
    read(fd, Buffer.alloc(1), 0, 1, null, () => undefined)
  }
  return () => { writeSync(fd, Buffer.alloc(ACTIVE)) }
}

function statMs(): Promise<number> {
  const started = performance.now()
  return new Promise(resolve => { stat('/', () => resolve(performance.now() - started)) })
}

async function until(holds: () => boolean): Promise<void> {
  for (const end = performance.now() + WITHIN_MS; !holds() && performance.now() < end;) {
    threadReserve.noteUse()
    await sleep(5)
  }
}

const scene = process.argv[2]
if (scene === 'late') {
  // The pool has its size from its first use on; newer Node starts without one.
  await statMs()
  process.env['UV_THREADPOOL_SIZE'] = '128'
}
const release = await parkThreads()
// The last threads need a moment until they sleep.
await sleep(100)
if (scene === 'exit') process.exit(3)
if (scene !== 'release') {
  const { parked } = threadReserve
  const clogged: number[] = []
  let woken = parked
  if (scene === 'late') clogged.push(await statMs())
  if (scene === 'clog') for (let round = 0; round < 2; round++) {
    const unclog = clog()
    clogged.push(await statMs())
    woken = threadReserve.parked
    unclog()
    await until(() => threadReserve.parked === parked)
  }
  console.log(JSON.stringify({ parked, clogged, woken, calm: threadReserve.parked }))
}
release()
