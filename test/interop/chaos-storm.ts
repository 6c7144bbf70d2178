/**
 * ChaosStorm: all commands of docs/cli.md in any order and several at once, on names that nobody else uses, and clients that come and go.
 *
 * Nobody knows what it leaves, so little is judged: every answer by what is promised of any command (chaos-host.ts), and that a snapshot,
 * told by its uuid, reads the same whenever it is read, through kills, restores, full disks and promotions.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { attach } from './chaos-client.js'
import { newSerial, SECTOR, sectorBytes } from './chaos-content.js'
import type { ChaosHost } from './chaos-host.js'
import { ConnectionLost, WireError, type WireClient } from './wire-client.js'

const VOLUMES = ['x0', 'x1', 'x2', 'x3']
const POINTS = ['p0', 'p1', 'p2']
const GROUPS = ['xg0', 'xg1']
const MIRRORS = ['xm0', 'xm1', 'xm2']
const SIZES = ['1MiB', '2MiB', '1537KiB', '4MiB']
const JOB_MS = 15_000
const STOP_MS = 3000
const UNUSED_ID = 1_000_000
const FILES = ['f0', 'f1', 'f2']

type Words = string[]
interface Known { readonly name?: string, readonly volume?: string, readonly export?: string, readonly id?: number, readonly state?: string, readonly startedAt?: string }

export class ChaosStorm {
  failure = ''
  looks = 0
  readonly #digests = new Map<string, string>()
  readonly #known = new Map<string, readonly Known[]>()
  /** Outages of each host by the time its jobs and clients were learnt. */
  readonly #learnt = new Map<string, number>()
  #stopped = false
  #running: Promise<unknown> = Promise.resolve()

  constructor(readonly hosts: readonly ChaosHost[], readonly random: () => number) {}

  start(parallel: number): void {
    this.#stopped = false
    this.#running = Promise.all([...Array.from({ length: parallel }, () => this.#commands()), this.#clients(), this.#readers()])
      .catch((error: unknown) => { this.failure ||= error instanceof Error ? error.stack ?? error.message : String(error) })
  }

  async stop(): Promise<void> {
    this.#stopped = true
    const ended = this.#running.then(() => true)
    // Who waits until something is copied waits for room as well, for ever.
    while (!await Promise.race([ended, sleep(STOP_MS)])) {
      for (const host of this.hosts) for (const name of VOLUMES) await host.run('volume', 'set-budget', name, '--unlimited')
    }
  }

  async #commands(): Promise<void> {
    while (!this.#stopped && !this.failure) {
      const host = this.#pick(this.hosts)
      await host.run(...this.#words(host))
    }
  }

  async #clients(): Promise<void> {
    while (!this.#stopped && !this.failure) {
      const host = this.#pick(this.hosts)
      const client = await attach(host.server.socketPath, this.#pick(VOLUMES)).catch(() => undefined)
      if (client) await this.#write(client)
      await sleep(this.random() * 300)
    }
  }

  async #write(client: WireClient): Promise<void> {
    const sectors = client.sizeBytes / SECTOR
    for (let left = Math.floor(this.random() * 60); left > 0 && !client.lost; left--) {
      const count = Math.min(sectors, 1 + Math.floor(this.random() ** 2 * 200))
      const from = Math.floor(this.random() * (sectors - count + 1))
      const dice = this.random()
      await (dice < 0.1 ? client.trim(from * SECTOR, count * SECTOR) : dice < 0.15 ? client.zero(from * SECTOR, count * SECTOR)
        : dice < 0.2 ? client.flush() : client.write(from * SECTOR, sectorBytes(newSerial(), from, count))).catch(expected)
      if (this.random() < 0.3) await sleep(this.random() * 20)
    }
    client.destroy()
  }

  /** The same uuid, the same content. */
  async #readers(): Promise<void> {
    while (!this.#stopped && !this.failure) {
      await sleep(this.random() * 200)
      const host = this.#pick(this.hosts)
      await this.#learn(host)
      const rows = (await host.run('snapshot', 'list')).value as { volume: string, name: string, uuid: string, kind: string }[] | undefined
      const points = rows?.filter(({ volume, kind, name }) => volume.startsWith('x') && kind === 'snapshot' && !name.endsWith('-image'))
      if (!points?.length) continue
      const { volume, name, uuid } = this.#pick(points)
      const digest = await this.#digest(host, `${volume}@${name}`)
      const after = digest === undefined ? undefined : (await host.run('snapshot', 'show', volume, name)).value as { uuid: string } | undefined
      if (after?.uuid !== uuid) continue
      this.looks++
      const before = this.#digests.get(uuid)
      if (before !== undefined && before !== digest) this.failure ||= `${host.name}: ${volume}@${name} (${uuid}) does not read as it did`
      this.#digests.set(uuid, digest!)
    }
  }

  /** Most commands shall be about what is there. */
  async #learn(host: ChaosHost): Promise<void> {
    const { outages } = host
    for (const noun of ['volume', 'mirror', 'group', 'snapshot', 'client', 'job'] as const) {
      const { exit, value } = await host.run(noun, 'list')
      if (exit === 0) this.#known.set(`${host.name} ${noun}`, (value as Known[]).filter(row => (row.volume ?? row.export ?? row.name)?.startsWith('x')))
    }
    if (outages !== host.outages) return
    this.#learnt.set(host.name, outages)
    // One that finds no room waits for it, for ever.
    for (const { id, state, startedAt } of this.#known.get(`${host.name} job`) ?? []) {
      if (state === 'running' && Date.now() - Date.parse(startedAt!) > JOB_MS) await this.#end(host, id!)
    }
  }

  async #end(host: ChaosHost, id: number): Promise<void> {
    if ((await host.run('job', 'cancel', String(id))).exit !== 6) return
    for (const name of VOLUMES) await host.run('volume', 'set-budget', name, '--unlimited')
  }

  #name(host: ChaosHost, noun: 'volume' | 'mirror' | 'group', names: readonly string[]): string {
    const known = this.#known.get(`${host.name} ${noun}`) ?? []
    return known.length > 0 && this.random() < 0.8 ? this.#pick(known).name! : this.#pick(names)
  }

  #point(host: ChaosHost): [volume: string, name: string] {
    const known = this.#known.get(`${host.name} snapshot`) ?? []
    if (known.length === 0 || this.random() < 0.2) return [this.#pick(VOLUMES), this.#pick(POINTS)]
    const { volume, name } = this.#pick(known)
    return [volume!, name!]
  }

  #id(host: ChaosHost, noun: 'client' | 'job'): string {
    const known = this.#known.get(`${host.name} ${noun}`) ?? []
    // A server that begins anew counts from 1: what was somebody's of the storm may now be somebody else's.
    return String(known.length > 0 && host.outages === this.#learnt.get(host.name) ? this.#pick(known.slice(-5)).id : UNUSED_ID)
  }

  async #digest(host: ChaosHost, name: string): Promise<string | undefined> {
    const client = await attach(host.server.socketPath, name).catch(() => undefined)
    if (!client) return undefined
    try {
      const hash = createHash('sha1')
      for (let at = 0; at < client.sizeBytes; at += 2 ** 20) hash.update(await client.read(at, Math.min(2 ** 20, client.sizeBytes - at)))
      return hash.digest('hex')
    } catch (error) {
      expected(error)
      return undefined
    } finally {
      client.destroy()
    }
  }

  #words(host: ChaosHost): Words {
    const made = this.#pick([
      () => this.#ofVolume(host), () => this.#ofVolume(host), () => this.#ofPoint(host), () => this.#ofPoint(host), () => this.#ofGroup(host),
      () => this.#ofSchedule(host), () => this.#ofDelta(host), () => this.#ofMirror(host), () => this.#ofMirror(host), () => this.#ofMirror(host),
      () => this.#ofServer(host), () => this.#ofServer(host),
    ])()
    return made
  }

  #ofVolume(host: ChaosHost): Words {
    const [name, size] = [this.#name(host, 'volume', VOLUMES), this.#pick(SIZES)]
    const other = this.#pick(this.hosts)
    const create = ['volume', 'create', this.#pick(VOLUMES), '--size', size, ...this.#perhaps('--if-not-exists'), ...this.#maybe('--grain', ['4KiB', '16KiB', '64KiB'])]
    return this.#pick<Words>([
      create, create, create, create, create,
      ['volume', 'list', ...this.#perhaps('--quiet')], ['volume', 'show', name],
      ['volume', 'resize', name, '--size', size, ...this.#perhaps('--shrink'), ...this.#dry()],
      ['volume', 'set-budget', name,
        ...this.#pick([['--limit', '512KiB'], ['--unlimited'], ['--order', 'fail'], ['--order', 'drop-undo-then-fail'], ['--limit', '0']]), ...this.#dry()],
      ['volume', 'import', name,
        this.#pick([host.file(this.#pick(FILES)), other.uri(this.#pick(VOLUMES)), other.uri(`${this.#pick(VOLUMES)}@latest`)]),
        ...this.#perhaps('--overwrite'), ...this.#dry(), ...this.#noWait()],
      ['volume', 'export', name, this.#pick([host.file(this.#pick(FILES)), other.uri(this.#pick(VOLUMES))]), ...this.#perhaps('--overwrite'), ...this.#noWait()],
      ['volume', 'reopen', name],
      ['volume', 'delete', name, ...this.#perhaps('--force'), ...this.#perhaps('--if-exists'), ...this.#dry()],
      ['volume', 'promote', name, ...this.#rate(), ...this.#noWait()],
    ])
  }

  #ofPoint(host: ChaosHost): Words {
    const [volume, name] = this.#point(host)
    const create = ['snapshot', 'create', this.#name(host, 'volume', VOLUMES), this.#pick(POINTS), ...this.#perhaps('--bookmark'), ...this.#maybe('--label', ['a=b', 'auto=undo', 'x='])]
    return this.#pick<Words>([
      create, create, create, ['snapshot', 'list', ...this.#maybeWord(volume)], ['snapshot', 'show', volume, name],
      ['snapshot', 'rename', volume, name, this.#pick(POINTS)],
      ['snapshot', 'delete', volume, name, ...this.#dry()],
      ['snapshot', 'diff', volume, name, ...this.#maybeWord(this.#pick(POINTS)), ...this.#maybe('--limit', ['0', '1', '3'])],
      ['snapshot', 'pin', volume, name, '--owner', this.#pick(['me', 'you']), ...this.#maybe('--expires', ['1s', '2s'])],
      ['snapshot', 'unpin', volume, name, '--owner', this.#pick(['me', 'you'])],
      ['snapshot', 'restore', volume, name, ...this.#maybe('--offset', ['0', '4KiB', '512', '1MiB', '3MiB']), ...this.#maybe('--length', ['512', '100KiB', '0', '8MiB']),
        ...this.#rate(), ...this.#perhaps('--force'), ...this.#dry(), ...this.#noWait()],
      ['snapshot', 'restore', `${volume}@${name}`, '--force', '--no-wait', '--rate', '100KiB'],
      ['snapshot', 'clone', volume, name, this.#pick(VOLUMES)],
    ])
  }

  #ofGroup(host: ChaosHost): Words {
    const group = this.#name(host, 'group', GROUPS)
    return this.#pick<Words>([
      ['group', 'create', group, this.#pick(VOLUMES), ...this.#maybeWord(this.#pick(VOLUMES))], ['group', 'create', group, ...VOLUMES.slice(0, 2)],
      ['group', 'list'], ['group', 'show', group], ['group', 'delete', group, ...this.#dry()],
      ['group', 'snapshot', group, this.#pick(POINTS), ...this.#perhaps('--bookmark')], ['group', 'snapshot', group, this.#pick(POINTS)],
      ['group', 'restore', group, this.#pick(POINTS), ...this.#rate(), ...this.#perhaps('--force'), ...this.#dry(), ...this.#noWait()],
    ])
  }

  #ofSchedule(host: ChaosHost): Words {
    const volume = this.#name(host, 'volume', VOLUMES)
    return this.#pick<Words>([
      ['schedule', 'set', volume, '--hourly', this.#pick(['0', '1', '3']), ...this.#maybe('--daily', ['1']), ...this.#perhaps('--keep-bookmarks'), ...this.#dry()],
      ['schedule', 'show', volume], ['schedule', 'clear', volume, ...this.#dry()],
    ])
  }

  #ofDelta(host: ChaosHost): Words {
    const [[volume, point], file] = [this.#point(host), host.file(`delta-${this.#pick(FILES)}`)]
    return this.#pick<Words>([
      ['delta', 'export', volume, point, file,
        ...this.#maybe('--from', POINTS), ...this.#maybe('--compress', ['gzip']), ...this.#perhaps('--overwrite'), ...this.#noWait()],
      ['delta', 'import', volume, file, ...this.#dry(), ...this.#noWait()],
      ['delta', 'merge', file, host.file(`delta-${this.#pick(FILES)}`), host.file('delta-f3'), ...this.#perhaps('--overwrite')],
      ['delta', 'verify', file],
    ])
  }

  #ofMirror(host: ChaosHost): Words {
    const [name, volume] = [this.#name(host, 'mirror', MIRRORS), this.#name(host, 'volume', VOLUMES)]
    const other = this.#pick(this.hosts.filter(one => one !== host))
    const several = this.#pick<Words>([[name], [name], MIRRORS.slice(0, 2), [this.#pick(GROUPS), '--group']])
    const kind = this.#pick<Words>([[this.#pick(VOLUMES)], [other.target(this.#pick(VOLUMES)), '--secret', other.secret],
      [other.target(this.#pick(VOLUMES)), '--secret', other.secret], [other.uri(this.#pick(VOLUMES))]])
    const create = ['mirror', 'create', this.#pick(MIRRORS), volume, ...kind, ...this.#maybe('--mode', ['periodic', 'async', 'sync']), ...this.#maybe('--interval', ['1s', '3s']),
      ...this.#maybe('--timeout', ['1s', '2s']), ...this.#maybe('--keep-snapshots', ['1', '2']), ...this.#perhaps('--overwrite'), ...this.#rate()]
    return this.#pick<Words>([
      create, create, create, create, ['mirror', 'list'], ['mirror', 'show', name],
      ['mirror', 'sync', ...several, ...this.#noWait()], ['mirror', 'sync', ...several], ['mirror', 'pause', name], ['mirror', 'resume', name], ['mirror', 'resume', name],
      ['mirror', 'split', ...several, ...this.#perhaps('--at-once'), ...this.#dry(), ...this.#noWait()],
      ['mirror', 'resync', ...several, ...this.#perhaps('--reverse'), ...this.#perhaps('--whole'), ...this.#perhaps('--force'), ...this.#dry(), ...this.#noWait()],
      ['mirror', 'verify', name, ...this.#rate(), ...this.#noWait()], ['mirror', 'delete', name, ...this.#dry()],
      ['replica', 'list'], ['replica', 'verify', volume, ...this.#noWait()], ['replica', 'promote', volume, ...this.#dry()], ['replica', 'forget', volume, ...this.#dry()],
    ])
  }

  #ofServer(host: ChaosHost): Words {
    const volume = this.#name(host, 'volume', VOLUMES)
    const [client, job] = [this.#id(host, 'client'), this.#id(host, 'job')]
    return this.#pick<Words>([
      ['export', 'list'], ['export', 'hide', volume], ['export', 'unhide', volume], ['export', 'unhide', volume],
      ['export', 'kick', this.#pick([volume, `${volume}@${this.#pick(POINTS)}`]), ...this.#maybe('--how', ['soft', 'hard']), ...this.#dry()],
      ['client', 'list', ...this.#maybe('--export', VOLUMES)], ['client', 'kick', client, ...this.#dry()],
      ['job', 'list'], ['job', 'show', job], ['job', 'cancel', job], ['status'], ['version'],
    ])
  }

  #dry(): Words { return this.random() < 0.15 ? ['--dry-run'] : [] }
  #noWait(): Words { return this.random() < 0.4 ? ['--no-wait'] : [] }
  #rate(): Words { return this.random() < 0.3 ? ['--rate', this.#pick(['200KiB', '1MiB/s', '20MiB'])] : [] }
  #perhaps(word: string): Words { return this.random() < 0.5 ? [word] : [] }
  #maybeWord(word: string): Words { return this.random() < 0.5 ? [word] : [] }
  #maybe(option: string, values: readonly string[]): Words { return this.random() < 0.4 ? [option, this.#pick(values)] : [] }
  #pick<T>(of: readonly T[]): T { return of[Math.floor(this.random() * of.length)]! }
}

function expected(error: unknown): void {
  if (!(error instanceof ConnectionLost) && !(error instanceof WireError)) throw error
}
