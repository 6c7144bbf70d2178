/**
 * ChaosModel: what all hosts must hold: volumes, their contents and points, groups, and mirrors with what their targets may show.
 *
 * `judge` asks a host for all its lists and compares; `read` reads an export and settles what was in doubt. What the server makes by itself
 * (undo points, points of mirrors and schedules) may be there without being known.
 */
import { ChaosClients, readExport } from './chaos-client.js'
import { ChaosContent, SECTOR } from './chaos-content.js'
import type { ChaosHost } from './chaos-host.js'
import { WHOLE_PAYLOAD_BYTES } from '../../src/nbd/inbox.js'

/** Names of points that a server gives by itself. */
const OWN_POINTS = /^(undo-|auto-|mirror-|before-|delta-)/
const ENOSPC = 28
const ESHUTDOWN = 108

/** `isAuto`: the server made it, and may give it up. */
export interface ModelPoint { content: ChaosContent | undefined, readonly isAuto: boolean, uuid: string }

export interface ModelVolume {
  readonly host: ChaosHost
  readonly name: string
  readonly grainSectors: number
  content: ChaosContent
  readonly points: Map<string, ModelPoint>
  clients: ChaosClients | undefined
  /** A clone reads from a point of this one. */
  base: { readonly volume: ModelVolume, readonly point: string } | undefined
  /** It belongs to this mirror, and is read-only. */
  targetOf: ModelMirror | undefined
  /** It was one: it may have points that nobody knows, and content that came that way. */
  wasTarget: boolean
  hasBudget: boolean
  /** Somebody's own file, which stays. */
  backing: string | undefined
  /** It came by deltas to this point, and was nobody's since. */
  origin: { readonly volume: ModelVolume, readonly uuid: string, readonly content: ChaosContent } | undefined
  /** By then a restore has been copied. */
  copiesUntilMs: number
}

export interface ModelMirror {
  readonly host: ChaosHost
  readonly name: string
  readonly kind: 'local' | 'peer' | 'plain'
  readonly mode: string
  readonly source: ModelVolume
  readonly target: ModelVolume
  isSplit: boolean
  isPaused: boolean
  /** What the target may show: follows the source since the last point that is known to be declared. */
  shown: ChaosContent
  /** Its first copy has been complete; before that nobody is let in. */
  isWhole: boolean
  /** The source's newest snapshots are there as well. */
  readonly keeps: boolean
}

interface Row {
  readonly name: string
  readonly volume: string
  readonly uuid: string
  readonly state: string
  readonly sizeBytes: number
  readonly problem: string | null
}

export class ChaosModel {
  readonly volumes = new Set<ModelVolume>()
  readonly mirrors = new Set<ModelMirror>()
  /** One whose last volume is deleted stays. */
  readonly groups = new Map<string, ModelVolume[]>()
  readonly groupHosts = new Map<string, ChaosHost>()
  /** The first thing that must not be. */
  failure = ''
  /** Hosts whose disk is full, or was a moment ago. */
  readonly full = new Set<ChaosHost>()
  reads = 0

  constructor(readonly random: () => number) {}

  add(host: ChaosHost, name: string, content: ChaosContent, grainSectors: number): ModelVolume {
    const volume: ModelVolume = {
      host, name, content, grainSectors, points: new Map(), clients: undefined, base: undefined, targetOf: undefined, wasTarget: false, hasBudget: false,
      backing: undefined, origin: undefined, copiesUntilMs: 0,
    }
    this.volumes.add(volume)
    return volume
  }

  fail(text: string): void { this.failure ||= text }

  async startClients(volume: ModelVolume): Promise<void> {
    if (volume.clients || volume.targetOf) return
    const { host, name, content, grainSectors } = volume
    if (!content.isSized) await this.read(volume)
    const rules = {
      mayRefuse: (errno: number): boolean => errno === ESHUTDOWN || (errno === ENOSPC && (volume.hasBudget || this.full.has(host))),
      // A budget is asked before anything is done, but large payloads are written as they arrive; a disk that is full may take a part, and
      // what is being copied goes piece by piece.
      mayBePartial: (errno: number, bytes: number): boolean => errno === ENOSPC
        && (bytes > WHOLE_PAYLOAD_BYTES || this.full.has(host) || volume.base !== undefined || Date.now() < volume.copiesUntilMs),
    }
    volume.clients = await ChaosClients.start(host.server.socketPath, name, content, grainSectors, this.random, rules)
  }

  async stopClients(volume: ModelVolume): Promise<void> {
    const { clients } = volume
    volume.clients = undefined
    await clients?.stop()
    if (clients?.failure) this.fail(`${volume.host.name} ${volume.name}: ${clients.failure}`)
  }

  async stopHost(host: ChaosHost): Promise<void> {
    for (const volume of this.volumes) if (volume.host === host) await this.stopClients(volume)
  }

  /** Reads what clients see of it. Settles it if nothing is in flight. */
  async read(volume: ModelVolume): Promise<void> {
    const { host, name, content, targetOf } = volume
    this.reads++
    const wanted = targetOf?.shown ?? content
    const isQuiet = !volume.clients && !targetOf
    const model = isQuiet || targetOf ? wanted : wanted.follow()
    const found = await readExport(host.server.socketPath, name).catch((error: unknown) => `cannot be read: ${(error as Error).message}`)
    if (model !== wanted) wanted.unfollow(model)
    if (typeof found === 'string' && targetOf && !targetOf.isWhole) return
    const wrong = typeof found === 'string' ? found : model.judge(found, isQuiet)
    if (wrong) this.fail(`${host.name} ${name}${targetOf ? `, target of ${targetOf.name} (${targetOf.mode}, ${targetOf.kind})` : ''}: ${wrong}`)
  }

  async readPoint(volume: ModelVolume, name: string): Promise<void> {
    const point = volume.points.get(name)!
    if (!point.content) return
    this.reads++
    const found = await readExport(volume.host.server.socketPath, `${volume.name}@${name}`).catch((error: unknown) => `cannot be read: ${(error as Error).message}`)
    const wrong = typeof found === 'string' ? found : point.content.judge(found, true)
    if (wrong) this.fail(`${volume.host.name} ${volume.name}@${name}: ${wrong}`)
  }

  /** Everything of one host, with nothing in flight there. */
  async readAll(host: ChaosHost, only?: ModelVolume): Promise<void> {
    for (const volume of this.volumes) {
      if (volume.host !== host || (only && volume !== only)) continue
      await this.read(volume)
      for (const name of volume.points.keys()) await this.readPoint(volume, name)
    }
  }

  /** The lists of a host; learns what became of points that the server gives up by itself. */
  async judge(host: ChaosHost): Promise<void> {
    const rows = async (noun: string): Promise<Row[]> => await host.ask(noun, 'list') as Row[]
    const mine = [...this.volumes].filter(volume => volume.host === host)
    const listed = (await rows('volume')).filter(({ name }) => !/^x|^mirror-/.test(name))
    this.#same(host, 'volumes', listed.map(({ name }) => name), mine.map(({ name }) => name))
    for (const row of listed) {
      const volume = mine.find(({ name }) => name === row.name)
      if (row.problem !== null) this.fail(`${host.name}: volume ${row.name}: ${row.problem}`)
      if (volume && !volume.targetOf && !volume.content.mayHave(row.sizeBytes / SECTOR)) this.fail(`${host.name}: ${row.name} has ${row.sizeBytes} bytes`)
    }
    const points = await rows('snapshot')
    for (const volume of mine) this.#judgePoints(volume, points.filter(row => row.volume === volume.name))
    this.#same(host, 'groups', (await rows('group')).map(({ name }) => name).filter(name => !name.startsWith('x')),
      [...this.groups].filter(([name]) => this.groupHosts.get(name) === host).map(([name]) => name))
    await this.#judgeMirrors(host, await rows('mirror'))
  }

  #judgePoints(volume: ModelVolume, rows: readonly Row[]): void {
    const names = rows.map(({ name }) => name)
    for (const [name, point] of volume.points) {
      if (names.includes(name)) { point.uuid = rows.find(row => row.name === name)!.uuid; continue }
      if (point.isAuto && (volume.hasBudget || this.full.has(volume.host))) volume.points.delete(name)
      else this.fail(`${volume.host.name}: ${volume.name}@${name} is not there; there are ${names.join()}`)
    }
    if (volume.wasTarget || volume.targetOf) return
    const unknown = names.filter(name => !volume.points.has(name) && !OWN_POINTS.test(name))
    if (unknown.length > 0) this.fail(`${volume.host.name}: ${volume.name} has points ${unknown.join()} that nobody made`)
  }

  async #judgeMirrors(host: ChaosHost, rows: readonly Row[]): Promise<void> {
    const mine = [...this.mirrors].filter(mirror => mirror.host === host)
    this.#same(host, 'mirrors', rows.map(({ name }) => name).filter(name => !name.startsWith('x')), mine.map(({ name }) => name))
    for (const { name, state } of rows) {
      const mirror = mine.find(one => one.name === name)
      if (mirror && mirror.isSplit !== (state === 'split')) this.fail(`${host.name}: mirror ${name} is ${state}`)
    }
  }

  #same(host: ChaosHost, what: string, found: readonly string[], wanted: readonly string[]): void {
    const [a, b] = [[...found].sort().join(), [...wanted].sort().join()]
    if (a !== b) this.fail(`${host.name}: the ${what} are ${a}, not ${b}`)
  }
}
