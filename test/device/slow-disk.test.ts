// A disk of which every access takes 300 ms does not hold up the event loop: neither reads of what is not cached nor
// writes nor a flush. A real block device (loop over nbdfuse over nbdkit's delay filter), so root only.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { type FileDisk, openFileDisk } from '../../src/device/file-disk.js'
import { seededRandom } from '../../src/device/testing.js'

const DELAY_MS = 300
const PAGES = 16 * 1024
const quiet = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'latin1', stdio: ['ignore', 'pipe', 'ignore'], timeout: 20_000 }).trim()

/** Why this machine cannot do it, or false. */
function obstacle(): string | false {
  if (process.getuid?.() !== 0) return 'needs root, for a loop device'
  if (!existsSync('/dev/fuse')) return 'no /dev/fuse'
  for (const tool of ['nbdfuse', 'nbdkit', 'losetup', 'fusermount3']) {
    try { quiet('which', tool) } catch { return `no ${tool}` }
  }
  return false
}

/** A loop device with a slow medium; the returned function takes it down. */
async function slowDevice(folder: string): Promise<{ loop: string, down: () => void }> {
  const disk = join(folder, 'disk')
  writeFileSync(disk, '')
  const fuse = spawn('nbdfuse', ['-P', join(folder, 'pid'), disk, '[', 'nbdkit', '--exit-with-parent', '--filter=delay', 'memory',
    `${PAGES * 4}K`, `rdelay=${DELAY_MS}ms`, `wdelay=${DELAY_MS}ms`, ']'], { stdio: 'ignore' })
  for (let i = 0; i < 200 && !existsSync(join(folder, 'pid')); i++) await sleep(25)
  let loop = ''
  const down = (): void => {
    if (loop) quiet('losetup', '-d', loop)
    try { quiet('fusermount3', '-u', '-z', disk) } catch { fuse.kill() }
  }
  try {
    loop = quiet('losetup', '--find', '--show', disk)
  } catch (error) {
    down()
    throw error
  }
  return { loop, down }
}

/** The longest time the event loop was not to be had. */
function watchLoop(): () => number {
  let worst = 0
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    worst = Math.max(worst, now - last - 5)
    last = now
  }, 5)
  return () => { clearInterval(timer); return worst }
}

/** `depth` callers at random pages for a while. */
async function load(disk: FileDisk, kind: 'read' | 'write', depth: number, pages: number, forMs: number): Promise<number> {
  const endMs = performance.now() + forMs
  let count = 0
  await Promise.all(Array.from({ length: depth }, async (_, caller) => {
    const random = seededRandom(caller + 1)
    const buffer = Buffer.alloc(4096, caller)
    while (performance.now() < endMs) {
      const pending = disk[kind](random(pages) * 4096, 4096, buffer, 0)
      if (pending) await pending
      else if (count % 32 === 0) await new Promise(resolve => { setImmediate(resolve) })
      count++
    }
  }))
  return count
}

t.test('a slow medium does not hold up the event loop', { skip: obstacle() }, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-slow-'))
  t.teardown(() => { rmSync(folder, { recursive: true, force: true }) })
  let device: Awaited<ReturnType<typeof slowDevice>>
  try {
    device = await slowDevice(folder)
  } catch (error) {
    return t.pass(`no slow device here: ${String(error)}`, { skip: true })
  }
  t.teardown(() => { device.down() })
  const disk = await openFileDisk({ path: device.loop })
  const cached = 256
  await Promise.all(Array.from({ length: 8 }, (_, i) => disk.read(i * 128 * 1024, 128 * 1024, Buffer.alloc(128 * 1024), 0)))

  // The loop's own absences are only told: on a busy machine it is away for want of a processor, too.
  const phase = async (name: string, run: () => Promise<unknown>): Promise<void> => {
    const stop = watchLoop()
    const result = await run()
    const away = stop()
    const { longestWaitMs } = disk.status()
    t.comment(`${name}: ${String(result)} requests, loop away for at most ${away.toFixed(1)} ms`)
    t.ok(longestWaitMs < DELAY_MS / 2, `${name}: no inline call waited for the medium, longest ${longestWaitMs.toFixed(1)} ms`)
  }
  await phase('cached pages', () => load(disk, 'read', 4, cached, 500))
  await phase('cached and cold pages', () => load(disk, 'read', 8, PAGES, 1500))
  await phase('cached pages while cold ones are out', () =>
    Promise.all([load(disk, 'read', 8, PAGES, 1500), load(disk, 'read', 8, cached, 1500)]))
  // Few pages: the kernel writes them back one after the other, and the flush waits for all.
  await phase('writes', () => load(disk, 'write', 8, 16, 1000))
  await phase('writes and flush', () => Promise.all([load(disk, 'write', 8, 16, 1000), sleep(100).then(() => disk.flush())]))
  await disk.close()
})
