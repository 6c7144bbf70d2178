/** A control server over a FakeAdmin on a socket of its own, and a raw peer that speaks bytes. */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createControlServer } from '../../src/control/server.js'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { FakeAdmin } from './fake-admin.js'
import type { Socket } from 'node:net'
import type { Test } from 'tap'
import type { ControlServer } from '../../src/control/server.js'

export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-control-'))
  t.teardown(() => { rmSync(folder, { recursive: true, force: true }) })
  return folder
}

export async function startControl(t: Test): Promise<{ fake: FakeAdmin, server: ControlServer, path: string }> {
  const path = join(temporaryFolder(t), 'control.sock')
  const fake = new FakeAdmin()
  const server = await createControlServer({ path, admin: fake.admin, clock: systemClock, logger: silentLogger })
  t.teardown(() => server.close())
  return { fake, server, path }
}

export interface Answer {
  readonly id?: unknown
  readonly result?: unknown
  readonly error?: { code: number, message: string, data: { code: string, exit: number, hint: string | null } }
  readonly method?: string
  readonly params?: unknown
}

/** Lines in, parsed answers out; `next` waits for the next one, undefined at the end. */
export class RawPeer {
  readonly socket: Socket
  readonly #answers: Answer[] = []
  readonly #waiting: ((answer: Answer | undefined) => void)[] = []
  #text = ''
  #closed = false

  constructor(path: string) {
    this.socket = connect({ path, allowHalfOpen: true })
    this.socket.on('data', chunk => {
      const lines = (this.#text + chunk.toString()).split('\n')
      this.#text = lines.pop()!
      for (const line of lines) {
        const answer = JSON.parse(line) as Answer
        const waiter = this.#waiting.shift()
        if (waiter) waiter(answer)
        else this.#answers.push(answer)
      }
    })
    this.socket.on('error', () => {})
    const over = (): void => { this.#closed = true; for (const waiter of this.#waiting.splice(0)) waiter(undefined) }
    this.socket.on('end', over)
    this.socket.on('close', over)
  }

  send(text: string | Buffer): void { this.socket.write(text) }

  next(): Promise<Answer | undefined> {
    const answer = this.#answers.shift()
    if (answer || this.#closed) return Promise.resolve(answer)
    return new Promise(resolve => { this.#waiting.push(resolve) })
  }

  close(): void { this.socket.destroy() }
}
