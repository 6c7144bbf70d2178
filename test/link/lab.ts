/** A peer link's server on a unix socket, and strangers that speak to it line by line. */
import { connect, createServer, type Server, type Socket } from 'node:net'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { LinkServer, type LinkSession } from '../../src/link/server.js'

export const SECRET = Buffer.from('sixteen bytes or more')

export interface LinkLab {
  readonly path: string
  readonly server: LinkServer
  close(): Promise<void>
}

/** Paths of sockets must be short, those of tests' folders are not. */
export async function serveLink(session: (hangUp: () => void) => LinkSession, clock = systemClock): Promise<LinkLab> {
  const directory = mkdtempSync(join(tmpdir(), 'nbdelta-link-'))
  const path = join(directory, 'peer.sock')
  const server = new LinkServer({ secret: SECRET, clock, logger: silentLogger, session })
  const listener: Server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, socket => { server.accept(socket) })
  await new Promise<void>(resolve => { listener.listen(path, resolve) })
  return {
    path, server,
    close: async () => {
      await server.close()
      await new Promise(resolve => { listener.close(resolve) })
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** Says what it is told to, and keeps what it hears. */
export class Stranger {
  readonly #socket: Socket
  #text = ''
  readonly closed: Promise<void>
  #wake: () => void = () => undefined

  constructor(path: string) {
    this.#socket = connect(path)
    this.#socket.on('data', chunk => { this.#text += chunk.toString(); this.#wake() })
    this.#socket.on('error', () => undefined)
    this.closed = new Promise(resolve => { this.#socket.on('close', () => { this.#wake(); resolve() }) })
  }

  say(text: string | Buffer): void { this.#socket.write(text) }
  tell(message: object): void { this.say(`${JSON.stringify(message)}\n`) }
  end(): void { this.#socket.destroy() }

  /** The next line; undefined: it hung up. */
  async hear(): Promise<Record<string, unknown> | undefined> {
    while (!this.#text.includes('\n')) {
      if (this.#socket.destroyed) return undefined
      await new Promise<void>(resolve => { this.#wake = resolve })
    }
    const end = this.#text.indexOf('\n')
    const line = this.#text.slice(0, end)
    this.#text = this.#text.slice(end + 1)
    return JSON.parse(line) as Record<string, unknown>
  }
}
