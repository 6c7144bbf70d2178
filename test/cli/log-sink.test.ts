// The log's way out: in order and whole lines, never in the way, and an end that comes whoever reads.
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, constants, existsSync, openSync, readFileSync, readSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { LogSink } from '../../src/log-sink.js'
import { temporaryFolder } from './launcher.js'
import type { Test } from 'tap'

const LINES = 4000
const lineOf = (number: number): string => `${String(number).padStart(8, '0')} ${'x'.repeat(90)}\n`
const EXPECTED = Array.from({ length: LINES }, (_, number) => lineOf(number)).join('')

/** A pipe that takes 64 KiB and then nothing until it is read. */
function pipe(t: Test): { path: string, fd: number, take(): string } {
  const path = join(temporaryFolder(t), 'pipe')
  execFileSync('mkfifo', [path])
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
  t.teardown(() => { closeSync(fd) })
  const into = Buffer.alloc(2 ** 16)
  const take = (): string => {
    try { return into.toString('latin1', 0, readSync(fd, into)) } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return ''
      throw error
    }
  }
  return { path, fd, take }
}

t.test('a slow reader gets every line, in order', async t => {
  const { fd, take } = pipe(t)
  const sink = new LogSink(fd)
  for (let number = 0; number < LINES; number++) sink.write(lineOf(number))
  let got = ''
  for (let turn = 0; got.length < EXPECTED.length && turn < 600; turn++) {
    got += take()
    await sleep(5)
  }
  t.ok(got === EXPECTED)
})

/** What a process reads from here on, also while this thread flushes. */
async function readOn(path: string, sink: LogSink): Promise<string> {
  const into = `${path}.read`
  const reader = spawn('sh', ['-c', 'exec cat "$0" > "$1"', path, into], { stdio: 'ignore' })
  const size = (): number => existsSync(into) ? statSync(into).size : 0
  // Before it is tried again: a write that is under way may lose its rest (log-sink.ts).
  sink.flushSync()
  for (let turn = 0; size() === 0 && turn < 1000; turn++) await sleep(5)
  for (let before = -1; before < size(); await sleep(200)) before = size()
  reader.kill('SIGKILL')
  return readFileSync(into, 'latin1')
}

t.test('the end writes what waits, also what the pipe had no room for', async t => {
  const { path, fd, take } = pipe(t)
  const sink = new LogSink(fd)
  for (let number = 0; number < LINES; number++) sink.write(lineOf(number))
  await sleep(50)
  const before = take()
  t.ok(before.length > 0 && before.length < EXPECTED.length / 2, 'the pipe was full')
  const got = before + await readOn(path, sink)
  t.equal(got.length, EXPECTED.length)
  t.ok(got === EXPECTED)
})

t.test('a reader that hangs holds up the end for a second, no longer', async t => {
  const { fd, take } = pipe(t)
  const sink = new LogSink(fd)
  for (let number = 0; number < LINES; number++) sink.write(lineOf(number))
  await sleep(50)
  const startedMs = performance.now()
  sink.flushSync()
  const tookMs = performance.now() - startedMs
  t.ok(tookMs > 500 && tookMs < 5000, `it took ${Math.round(tookMs)} ms`)
  const got = take()
  t.ok(got.length > 0 && EXPECTED.startsWith(got), 'what fitted is there')
})

t.test('memory is bounded, and what is kept is whole', async t => {
  const { path, fd } = pipe(t)
  const sink = new LogSink(fd)
  for (let number = 0; number < 20 * LINES; number++) sink.write(lineOf(number))
  await sleep(50)
  const got = await readOn(path, sink)
  t.ok(got.length > 4_000_000 && got.length < 5_000_000, `${got.length} bytes`)
  t.ok(got.split('\n').slice(0, -1).every((line, number) => `${line}\n` === lineOf(number)))
})

t.test('a reader that is gone', async t => {
  const path = join(temporaryFolder(t), 'pipe')
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK)
  closeSync(reader)
  t.teardown(() => { closeSync(fd) })
  t.throws(() => writeSync(fd, 'x'), { code: 'EPIPE' })
  const early = new LogSink(fd)
  for (let number = 0; number < LINES; number++) early.write(lineOf(number))
  early.flushSync()
  const late = new LogSink(fd)
  late.write(lineOf(0))
  await sleep(50)
  late.write(lineOf(1))
  late.flushSync()
  t.pass('nothing hangs')
})
