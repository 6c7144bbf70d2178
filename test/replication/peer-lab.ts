/** Two stores in one process: a source with its mirrors, and a peer with its NBD server and its link, over real unix sockets. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openPeerLink, PeerExports, placesOf, servePeers, type DaemonLink } from '../../src/daemon-link.js'
import { shownInstead, wholeAt } from '../../src/daemon-mirrors.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { ManualClock } from '../../src/device/testing.js'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { createServer, Mirrors, NbdeltaError, openNbdClient, openStore, Secondaries } from '../../src/index.js'
import type { Mirror, NbdServer, PeerLink, Store, StoreVolume } from '../../src/index.js'
import type { CreateMirrorOptions } from '../../src/replication/mirrors.js'
import { StoreExports } from '../../src/store-exports.js'
import { G, shown } from './lab.js'

/** One nbdelta, as the daemon puts it together, without its process. */
export class Node {
  store!: Store
  mirrors!: Mirrors
  secondaries!: Secondaries
  server!: NbdServer
  link!: DaemonLink
  readonly clock = new ManualClock({ wallTime: new Date('2026-01-01T00:00:00Z') })
  /** Of this node's mirrors: what is opened to a peer. */
  onLink: (link: PeerLink) => PeerLink = link => link
  /** Likewise, over NBD. */
  onConnect: (device: BlockDevice) => BlockDevice = device => device
  readonly #dir: string
  #store = 'store'
  #next = 'store'
  /** Paths of sockets must be short. */
  readonly #sockets = mkdtempSync(join(tmpdir(), 'nbdelta-peer-'))

  private constructor(dir: string) { this.#dir = dir }

  static async start(dir: string, name: string): Promise<Node> {
    const node = new Node(join(dir, name))
    mkdirSync(node.#dir, { recursive: true })
    writeFileSync(node.secret, 'a secret of sixteen bytes\n', { mode: 0o600 })
    await node.start()
    return node
  }

  get secret(): string { return join(this.#dir, 'secret') }
  uri(volume: string): string { return `nbdelta+unix:///${volume}?socket=${join(this.#sockets, 'peer')}` }

  async start(): Promise<void> {
    this.#store = this.#next
    const store = this.store = await openStore({ path: join(this.#dir, this.#store), create: true })
    const secondaries: Secondaries = this.secondaries = new Secondaries({
      store, logger: silentLogger, clock: this.clock, expose: volume => exports.expose(volume), places: () => placesOf(this.server.addresses),
      whileUnattached: async (name, work) => {
        if (this.server.clients().some(client => client.export === name)) throw new NbdeltaError('busy', `${name} has clients`)
        return work()
      },
      localMirror: uuid => mirrors.ofTarget(uuid)?.record.name,
    })
    const mirrors: Mirrors = this.mirrors = new Mirrors({
      store, clock: this.clock, logger: silentLogger,
      connect: async (uri, { ordered }) => this.onConnect(await openNbdClient({
        uri, connections: ordered ? 1 : 2, resendWrites: !ordered, reconnect: ordered ? { attempts: 0 } : { limitMs: 2000 },
      })),
      link: async (uri, secret) => this.onLink(await openPeerLink(uri, secret)),
      above: uuid => secondaries.above(uuid), wholeAt: volume => wholeAt({ mirrors, secondaries }, volume),
    })
    secondaries.start()
    mirrors.start()
    const others = new StoreExports(store, () => undefined, volume => shownInstead({ mirrors, secondaries }, volume))
    const exports = new PeerExports(others, () => this.server)
    this.server = await createServer({ exports, listen: { path: join(this.#sockets, 'nbd') } })
    this.link = await servePeers(
      { listen: { path: join(this.#sockets, 'peer') }, secretFile: this.secret, secondaries, clock: systemClock, logger: silentLogger })
  }

  async close(): Promise<void> {
    await this.link.close()
    await this.mirrors.stop()
    await this.server.close({ deadlineMs: 0 })
    await this.store.close()
  }

  remove(): void { rmSync(this.#sockets, { recursive: true, force: true }) }

  async restart(): Promise<void> {
    await this.close()
    await this.start()
  }

  /** What a killed process leaves of the store at this moment is what the next start finds. */
  async copied(): Promise<void> {
    const next = `${this.#store}-again`
    execFileSync('cp', ['-a', '--sparse=always', join(this.#dir, this.#store), join(this.#dir, next)])
    this.#next = next
  }

  /** Killed at this moment, and started again. */
  async killed(): Promise<void> {
    await this.copied()
    await this.restart()
  }

  /** What a client sees under a volume's name, one byte a grain. Errors: not-found (nothing is shown). */
  async seen(volume: string): Promise<number[]> {
    const address = this.server.addresses[0]!
    const client = await openNbdClient({ address, exportName: volume, reconnect: { attempts: 0 } })
    try { return await shown(client) } finally { await client.close() }
  }

  /** A link of one's own, to say what no mirror would. */
  async dial(volume: string): Promise<PeerLink> { return openPeerLink(this.uri(volume), this.secret) }
}

export class PeerLab {
  readonly near: Node
  readonly far: Node

  private constructor(near: Node, far: Node) {
    this.near = near
    this.far = far
  }

  static async open(directory: string): Promise<PeerLab> {
    return new PeerLab(await Node.start(directory, 'a'), await Node.start(directory, 'b'))
  }

  /** A source of that many grains, all of value 1. */
  async source(name: string, grains: number): Promise<StoreVolume> {
    const volume = await this.near.store.createVolume({ name, sizeBytes: grains * G, grainBytes: G })
    await volume.write(0, grains * G, Buffer.alloc(grains * G, 1), 0)
    return volume
  }

  options(target: string, more: Partial<CreateMirrorOptions> = {}): CreateMirrorOptions {
    return {
      name: 'm', volume: 'v', target: this.far.uri(target), secretFile: this.far.secret, intervalSeconds: 3600, lagBytes: null,
      bytesPerSecond: null, overwrite: false, ...more,
    }
  }

  /** The first cycle is waited for. */
  async mirror(more: Partial<CreateMirrorOptions> = {}): Promise<Mirror> {
    const mirror = await this.near.mirrors.create(this.options('w', more))
    await mirror.sync()
    return mirror
  }

  async close(): Promise<void> {
    await this.near.close()
    await this.far.close()
    this.near.remove()
    this.far.remove()
  }
}

/** Something else than what the link says. */
export function changed(
  link: PeerLink, call: (method: string, params: object, go: () => Promise<unknown>) => Promise<unknown>,
): PeerLink {
  return {
    volume: link.volume, ended: link.ended, close: () => { link.close() }, exportUri: (places, name) => link.exportUri(places, name),
    call: (method, params) => call(method, params, () => link.call(method, params)),
  }
}
