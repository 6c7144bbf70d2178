// Ctrl-C of a command whose job has no number yet. The server here is a script, so that the signal comes at exactly that moment.
import { createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import t from 'tap'
import { start, temporaryFolder } from './launcher.js'

interface Request { readonly id: number, readonly method: string, readonly params: Record<string, unknown> }
const JOB = { id: 7, kind: 'restore', volume: 'disk', path: null, state: 'running', doneBytes: 0, totalBytes: 10,
  startedAt: '2026-01-01T00:00:00.000Z', finishedAt: null, error: null, note: null }
const later = (ms: number) => new Promise(resolve => { setTimeout(resolve, ms) })

/** Every request comes to `requests`; `send` writes a line. */
async function scripted(t: Parameters<typeof temporaryFolder>[0]) {
  const path = join(temporaryFolder(t), 'control.sock')
  const requests: Request[] = []
  const waiting: (() => void)[] = []
  let peer: Socket | undefined
  const server = createServer(socket => {
    peer = socket
    socket.on('error', () => {})
    createInterface(socket).on('line', line => { requests.push(JSON.parse(line) as Request); waiting.shift()?.() })
  })
  await new Promise<void>(resolve => { server.listen(path, resolve) })
  t.teardown(() => { peer?.destroy(); server.close() })
  let taken = 0
  return {
    path,
    next: async (): Promise<Request> => {
      if (requests.length <= taken) await new Promise<void>(resolve => { waiting.push(resolve) })
      return requests[taken++]!
    },
    send: (message: object) => { peer!.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`) },
  }
}

/** A restore that was asked for, and a first Ctrl-C. */
async function interrupted(t: Parameters<typeof temporaryFolder>[0], ...options: string[]) {
  const { path, next, send } = await scripted(t)
  const { child, ended } = start(['snapshot', 'restore', 'disk', 's', ...options, '--control', path])
  const restore = await next()
  child.kill('SIGINT')
  await later(200)
  return { restore, child, ended, next, send }
}

t.test('the job is cancelled as soon as it has a number', async t => {
  const { restore, ended, next, send } = await interrupted(t)
  send({ method: 'progress', params: { id: restore.id, job: JOB } })
  const cancel = await next()
  t.match(cancel, { method: 'job.cancel', params: { id: 7 } })
  send({ method: 'progress', params: { id: restore.id, job: JOB } })
  send({ id: cancel.id, result: { ...JOB, state: 'cancelled' } })
  send({ id: restore.id, error: { code: -32130, message: 'was cancelled', data: { code: 'cancelled', exit: 130, hint: 'as before' } } })
  t.same(await ended, { code: 130, stdout: '', stderr: 'nbdelta: restore cancelled\nhint: as before\n' })
})

t.test('a job that ended otherwise is not called cancelled', async t => {
  const { restore, ended, send } = await interrupted(t)
  send({ id: restore.id, error: { code: -32007, message: 'it could not be taken back', data: { code: 'io', exit: 7, hint: null } } })
  t.match(await ended, { code: 7, stderr: /^nbdelta: it could not be taken back/ })
})

t.test('the second one does not wait, and claims nothing', async t => {
  const { child, ended } = await interrupted(t)
  child.kill('SIGINT')
  t.match(await ended, { code: 130, stderr: /it may go on\nhint: see: nbdelta job list/ })
})

t.test('--dry-run ends at once', async t => {
  const { ended } = await interrupted(t, '--dry-run')
  t.match(await ended, { code: 130, stderr: 'nbdelta: restore cancelled\n' })
})
