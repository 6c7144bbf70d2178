/**
 * Relay: a unix socket that passes everything on to another one, until the link is cut.
 *
 * What stands between a mirror and its peer: `cut` ends all connections at once, as a lost network does, and lets no new ones in until `mend`.
 */
import { rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { Server, Socket } from 'node:net'

export class Relay {
  readonly path: string
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #isCut = false

  private constructor(path: string, server: Server) {
    this.path = path
    this.#server = server
  }

  static async start(path: string, to: string): Promise<Relay> {
    rmSync(path, { force: true })
    const server = createServer()
    const relay = new Relay(path, server)
    server.on('connection', socket => { relay.#join(socket, to) })
    await new Promise<void>(resolve => { server.listen(path, resolve) })
    server.unref()
    return relay
  }

  cut(): void {
    this.#isCut = true
    for (const socket of this.#sockets) socket.destroy()
  }

  mend(): void { this.#isCut = false }

  close(): void {
    this.cut()
    this.#server.close()
  }

  #join(near: Socket, to: string): void {
    near.on('error', () => undefined)
    if (this.#isCut) { near.destroy(); return }
    const far = connect({ path: to })
    far.on('error', () => undefined)
    for (const [one, other] of [[near, far], [far, near]] as const) {
      this.#sockets.add(one)
      one.once('close', () => {
        this.#sockets.delete(one)
        other.destroy()
      })
      one.pipe(other)
    }
  }
}
