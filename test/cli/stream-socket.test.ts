// The socket by which a server writes to a command's standard output: all of it arrives, however late the connection is noticed.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { STREAM_SOCKET } from '../../src/control/options.js'

const MODULE = new URL('../../src/cli/stream-socket.js', import.meta.url).href
const PROGRAM = `
  const { openStreamSocket } = await import('${MODULE}')
  const stream = await openStreamSocket('out')
  process.stderr.write(stream.address)
  await stream.settled(process.argv[1] === 'sent')
  await stream.close()`
const BYTES = 100_000

function command(how: string) {
  const child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM, how], { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = once(child, 'exit') as Promise<[code: number]>
  return { child, ended }
}

t.test('what was sent is waited for, before anybody has connected', async t => {
  const { child, ended } = command('sent')
  let received = 0
  child.stdout.on('data', (data: Buffer) => { received += data.length })
  const [address] = await once(child.stderr, 'data') as [Buffer]
  await sleep(200)
  const socket = connect(address.toString().slice(STREAM_SOCKET.length))
  await once(socket, 'connect')
  socket.end(Buffer.alloc(BYTES, 1))
  t.equal((await ended)[0], 0)
  t.equal(received, BYTES)
})

t.test('after a failure nobody may ever connect', async t => {
  const { ended } = command('failed')
  t.equal((await ended)[0], 0)
})
