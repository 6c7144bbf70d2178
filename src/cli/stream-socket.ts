/**
 * `-` as FILE of a command that a server carries out: this process listens on a socket in a folder of its own (mode 0700), the
 * server connects to it, and what it sends goes to standard output, or standard input goes to it. One connection, once.
 */
import { chmodSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { finished } from 'node:stream/promises'
import { NbdeltaError, asNbdeltaError } from '../control/commands.js'
import { STREAM_SOCKET } from '../control/options.js'
import type { Socket } from 'node:net'

interface StreamSocket {
  /** What is sent in the place of a path. */
  readonly address: string
  /**
   * Everything that the server has sent is in standard output. Rejects with what standard output did not take.
   * @param isSent the server says that it has: it may not have been noticed yet that it has connected
   */
  settled(isSent: boolean): Promise<void>
  close(): Promise<void>
}

/** @param direction in: standard input goes to the server */
export async function openStreamSocket(direction: 'in' | 'out'): Promise<StreamSocket> {
  const folder = await mkdtemp(join(tmpdir(), 'nbdelta-'))
  chmodSync(folder, 0o700)
  const path = join(folder, 'stream')
  let peer: Socket | undefined
  let done: Promise<void> = Promise.resolve()
  let noteConnected = (): void => undefined
  const connected = new Promise<void>(resolve => { noteConnected = resolve })
  let lost: NbdeltaError | undefined
  const server = createServer(socket => {
    if (peer) { socket.destroy(); return }
    peer = socket
    socket.on('error', () => {})
    if (direction === 'in') {
      process.stdin.pipe(socket)
      return
    }
    // Whoever reads has gone, or has no room: the server is told by the end of the connection.
    process.stdout.once('error', error => {
      lost = asNbdeltaError(error, 'write to standard output')
      socket.destroy()
    })
    done = finished(socket, { writable: false }).catch(() => undefined)
    socket.pipe(process.stdout, { end: false })
    noteConnected()
  })
  await new Promise<void>((resolve, reject) => { server.once('error', reject).listen(path, resolve) })
  return {
    address: `${STREAM_SOCKET}${path}`,
    settled: async isSent => {
      if (isSent && direction === 'out') await connected
      await done
      // An empty write fails no earlier than those before it.
      await new Promise(resolve => { process.stdout.write('', resolve) })
      if (lost) throw new NbdeltaError(lost.code, lost.message, { hint: 'what it wrote is incomplete', cause: lost })
    },
    close: async () => {
      server.close()
      peer?.destroy()
      if (direction === 'in') process.stdin.destroy()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
