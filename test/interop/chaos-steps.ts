/**
 * ChaosSteps: random commands about volumes, points and groups whose outcome the model knows, while clients write.
 *
 * A command is answered with yes, refused (then nothing may have changed), or cut short by a kill: then it has happened or not, which its
 * step finds out by asking.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ChaosClients, readExport } from './chaos-client.js'
import { ChaosContent, SECTOR, serialsOf } from './chaos-content.js'
import type { ChaosHost } from './chaos-host.js'
import { type InstantLog, judgeInstant } from './chaos-instants.js'
import type { ChaosModel, ModelVolume } from './chaos-model.js'
import { EXIT } from '../../src/control/commands.js'
import { commandOf, type Outcome } from './outcome.js'

const MIB_SECTORS = 2048
export const VOLUMES_MAX = 5
export const POINTS_MAX = 5
const KILLS = 0.06
const COPIES_MS = 40_000
const INTERRUPTED = 130
/** A process needs so long to ask; a Ctrl-C comes in the time behind it. */
const BEGIN_MS = 150
const CUT_MS = 500
/** Whoever types a command may be gone before its answer. */
const COMMAND_KILLS = 0.04
const SETTLE_MS = 15_000
/** By then the server has noticed that nobody waits any more. */
const CANCEL_MS = 500
const REFUSALS = [4, 5, 6]

export type Verdict = 'done' | 'refused' | 'unknown'
interface Row { readonly name: string, readonly uuid: string, readonly labels: Record<string, string> }

export class ChaosSteps {
  static names = 0

  constructor(readonly model: ChaosModel, readonly hosts: readonly ChaosHost[]) {}

  get random(): () => number { return this.model.random }
  pick<T>(of: readonly T[]): T { return of[Math.floor(this.random() * of.length)]! }
  name(letter: string): string { return `${letter}${++ChaosSteps.names}` }

  other(host: ChaosHost): ChaosHost { return this.pick(this.hosts.filter(one => one !== host)) }

  /** A volume of its own, that no mirror holds. */
  own(host?: ChaosHost): ModelVolume | undefined {
    return this.pick([...this.model.volumes].filter(volume => !volume.targetOf && (!host || volume.host === host)))
  }

  /** Runs it; now and then the server is killed amid, or a job gets a Ctrl-C. Exit codes that are no refusal of this kind are failures. */
  async do(host: ChaosHost, words: readonly string[], refusals: readonly number[] = REFUSALS): Promise<Outcome & { readonly verdict: Verdict }> {
    const { outages } = host
    const isCut = commandOf(words).exits.some(name => EXIT[name] === INTERRUPTED) && refusals.includes(INTERRUPTED) && this.random() < KILLS
    const isKilled = !isCut && this.random() < COMMAND_KILLS
    const strike = { afterMs: BEGIN_MS + this.random() ** 2 * CUT_MS, signal: isKilled ? 'SIGKILL' : 'SIGINT' } as const
    const asked = host.runFor(isCut || isKilled ? strike : undefined, words)
    await this.killPerhaps(host)
    const outcome = await asked
    if (outcome.exit === 0) return { ...outcome, verdict: 'done' }
    if (outcome.exit === INTERRUPTED) await this.settled(host, words)
    if ((outages !== host.outages && outcome.exit === 9) || outcome.exit === INTERRUPTED) return { ...outcome, verdict: 'unknown' }
    const mayFill = this.model.full.has(host) && (outcome.exit === 6 || outcome.exit === 7)
    if (!mayFill && !refusals.includes(outcome.exit!)) this.model.fail(`${host.name}: ${words.join(' ')}: ${outcome.stderr}`)
    return { ...outcome, verdict: 'refused' }
  }

  /** What was asked by somebody who is gone goes on for a while: what takes turns with it comes behind it, and jobs are waited for. */
  async settled(host: ChaosHost, words: readonly string[]): Promise<void> {
    const [noun, , name] = words
    await sleep(CANCEL_MS)
    await host.run(noun === 'group' || noun === 'mirror' ? noun : 'volume', 'delete', name!, '--dry-run')
    for (const deadline = Date.now() + SETTLE_MS; Date.now() < deadline; await sleep(100)) {
      const { value } = await host.run('job', 'list')
      const jobs = (value ?? []) as { kind: string, state: string, volume: string }[]
      if (!jobs.some(({ kind, state, volume }) => state === 'running' && volume.split(/[ ,]+/).some(one => words.includes(one)) && !/restore|promotion/.test(kind))) return
    }
  }

  /** Its clients are gone then. */
  async killPerhaps(host: ChaosHost): Promise<void> {
    if (this.random() >= KILLS) return
    await sleep(this.random() ** 2 * 400)
    await host.kill()
    await this.model.stopHost(host)
  }

  async names(host: ChaosHost, ...words: string[]): Promise<Row[]> { return await host.ask(...words) as Row[] }

  async create(): Promise<void> {
    const host = this.pick(this.hosts)
    if ([...this.model.volumes].filter(volume => volume.host === host).length >= VOLUMES_MAX) return
    const [name, sectors, grain] = [this.name('v'), MIB_SECTORS + Math.floor(this.random() * MIB_SECTORS), this.pick([4096, 4096, 16384, 65536])]
    const { verdict } = await this.do(host, ['volume', 'create', name, '--size', String(sectors * SECTOR), '--grain', String(grain)])
    if (await this.happened(host, verdict, ['volume', 'list'], name)) this.model.add(host, name, new ChaosContent(sectors), grain / SECTOR)
  }

  /** Of a command that was cut short: whether the name is there. */
  async happened(host: ChaosHost, verdict: Verdict, list: string[], name: string): Promise<boolean> {
    return verdict === 'done' || (verdict === 'unknown' && (await this.names(host, ...list)).some(row => row.name === name))
  }

  async clients(): Promise<void> {
    const volume = this.own()
    if (!volume) return
    if (volume.clients) await this.model.stopClients(volume)
    else await this.model.startClients(volume)
  }

  async snapshot(volume = this.own()): Promise<void> {
    if (!volume || volume.points.size >= POINTS_MAX) return
    const { host, content } = volume
    const [name, isBookmark] = [this.name('s'), this.random() < 0.25]
    const taken = content.follow()
    const { verdict, value } = await this.do(host, ['snapshot', 'create', volume.name, name, ...isBookmark ? ['--bookmark'] : []])
    content.unfollow(taken)
    const uuid = (value as Row | undefined)?.uuid ?? ''
    if (await this.happened(host, verdict, ['snapshot', 'list', volume.name], name)) volume.points.set(name, { content: isBookmark ? undefined : taken, isAuto: false, uuid })
  }

  async deletePoint(volume = this.own(), name = volume && this.pick([...volume.points.keys()])): Promise<void> {
    if (!volume || !name) return
    const { verdict } = await this.do(volume.host, ['snapshot', 'delete', volume.name, name])
    if (verdict === 'refused') return
    if (verdict === 'done' || !(await this.names(volume.host, 'snapshot', 'list', volume.name)).some(row => row.name === name)) volume.points.delete(name)
  }

  async renamePoint(): Promise<void> {
    const volume = this.own()
    const name = volume && this.pick([...volume.points.keys()].filter(one => one.startsWith('s')))
    if (!name || [...this.model.volumes].some(({ base }) => base?.volume === volume && base.point === name)) return
    const to = this.name('s')
    const { verdict } = await this.do(volume.host, ['snapshot', 'rename', volume.name, name, to])
    if (!await this.happened(volume.host, verdict, ['snapshot', 'list', volume.name], to)) return
    volume.points.set(to, volume.points.get(name)!)
    volume.points.delete(name)
  }

  /** A pin keeps it, until it expires. */
  async pin(): Promise<void> {
    const volume = this.own()
    const name = volume && this.pick([...volume.points.keys()].filter(one => one.startsWith('s')))
    if (!name) return
    const { host } = volume
    const { verdict } = await this.do(host, ['snapshot', 'pin', volume.name, name, '--owner', 'chaos', '--expires', '1s'])
    if (verdict !== 'done') return
    const began = performance.now()
    const deletion = await host.run('snapshot', 'delete', volume.name, name)
    if (deletion.exit === 0 && performance.now() - began < 800) this.model.fail(`${host.name}: ${volume.name}@${name} is deleted in spite of a pin`)
    if (deletion.exit === 0) { volume.points.delete(name); return }
    if (deletion.exit !== 9 && this.random() < 0.5) await this.do(host, ['snapshot', 'unpin', volume.name, name, '--owner', 'chaos'], [3])
  }

  async readPoint(): Promise<void> {
    const volume = this.own()
    const name = volume && this.pick([...volume.points.keys()])
    if (name) await this.model.readPoint(volume, name)
  }

  async read(): Promise<void> {
    const volume = this.pick([...this.model.volumes])
    if (volume) await this.model.read(volume)
  }

  /** Of all or a part; waited for, left alone, or cancelled. */
  async restore(): Promise<void> {
    const volume = this.own()
    const name = volume && this.pick([...volume.points].filter(([, { content }]) => content).map(([one]) => one))
    if (!name) return
    const { host, content } = volume
    const point = volume.points.get(name)!.content!
    if (volume.clients) {
      const { exit, stderr } = await host.run('snapshot', 'restore', volume.name, name)
      if (exit !== 5 && !volume.clients.areLost && ![4, 6, 9].includes(exit!)) this.model.fail(`${host.name}: ${volume.name} is restored under its clients: ${exit} ${stderr}`)
      await this.model.stopClients(volume)
      if (exit === 0) return
    }
    const common = Math.min(content.sectors, point.sectors)
    const from = this.random() < 0.6 ? 0 : Math.floor(this.random() * common)
    const count = from === 0 ? common : 1 + Math.floor(this.random() * (common - from))
    const part = from === 0 ? [] : ['--offset', String(from * SECTOR), '--length', String(count * SECTOR)]
    // A copy waits for room, which a budget may not give.
    const isLeft = volume.hasBudget || this.random() < 0.5
    const before = content.copy()
    const after = content.copy()
    after.become(point, from, count)
    const known = new Set((await this.names(host, 'snapshot', 'list', volume.name)).map(row => row.name))
    volume.copiesUntilMs = Date.now() + COPIES_MS
    const { verdict, value } = await this.do(host, ['snapshot', 'restore', volume.name, name, '--force', ...part, ...isLeft ? ['--no-wait', '--rate', '300KiB'] : []])
    if (verdict === 'done') content.become(point, from, count)
    else if (verdict === 'unknown') content.mayBecome(after)
    const undo = (await this.names(host, 'snapshot', 'list', volume.name)).find(row => !known.has(row.name) && row.labels['auto'] === 'undo')
    if (undo) volume.points.set(undo.name, { content: before, isAuto: true, uuid: undo.uuid })
    if (verdict === 'done' && isLeft && this.random() < 0.4) await this.cancel(volume, (value as { id: number }).id, before, from, count)
  }

  /** Answers the job, which goes on. */
  async restoreLeft(volume: ModelVolume, name: string): Promise<number | undefined> {
    const { host, content } = volume
    const point = volume.points.get(name)!.content!
    const count = Math.min(content.sectors, point.sectors)
    const [before, after] = [content.copy(), content.copy()]
    after.become(point, 0, count)
    const known = new Set((await this.names(host, 'snapshot', 'list', volume.name)).map(row => row.name))
    volume.copiesUntilMs = Date.now() + COPIES_MS
    const { verdict, value } = await this.do(host, ['snapshot', 'restore', volume.name, name, '--force', '--no-wait', ...this.random() < 0.5 ? ['--rate', '300KiB'] : []])
    if (verdict === 'done') content.become(point, 0, count)
    else if (verdict === 'unknown') content.mayBecome(after)
    const undo = (await this.names(host, 'snapshot', 'list', volume.name)).find(row => !known.has(row.name) && row.labels['auto'] === 'undo')
    if (undo) volume.points.set(undo.name, { content: before, isAuto: true, uuid: undo.uuid })
    return verdict === 'done' ? (value as { id: number }).id : undefined
  }

  async cancel(volume: ModelVolume, id: number, before: ChaosContent, from: number, count: number): Promise<void> {
    await sleep(this.random() * 500)
    const { host } = volume
    const { outages } = host
    const { exit, value } = await host.run('job', 'cancel', String(id))
    if (exit === 0 && (value as { state: string }).state === 'cancelled') volume.content.become(before, from, count)
    else if (exit === 6 && (volume.hasBudget || this.model.full.has(host))) return // it goes on, as is said
    else if (exit !== 0 && outages === host.outages) this.model.fail(`${host.name}: job ${id} of ${volume.name} cannot be cancelled: ${exit}`)
  }

  async clone(): Promise<void> {
    const volume = this.own()
    const name = volume && this.pick([...volume.points].filter(([, { content }]) => content).map(([one]) => one))
    if (!name || [...this.model.volumes].filter(({ host }) => host === volume.host).length >= VOLUMES_MAX) return
    const to = this.name('c')
    const { verdict } = await this.do(volume.host, ['snapshot', 'clone', volume.name, name, to])
    if (!await this.happened(volume.host, verdict, ['volume', 'list'], to)) return
    const clone = this.model.add(volume.host, to, volume.points.get(name)!.content!.copy(), volume.grainSectors)
    clone.base = { volume, point: name }
  }

  /** Whoever waits until something is copied waits for room as well, for ever. */
  async lift(volume: ModelVolume): Promise<boolean> {
    return !volume.hasBudget || (await this.do(volume.host, ['volume', 'set-budget', volume.name, '--unlimited'])).verdict === 'done'
  }

  async promote(): Promise<void> {
    const clone = [...this.model.volumes].find(({ base }) => base)
    if (!clone) return
    if (!await this.lift(clone)) return
    const { verdict } = await this.do(clone.host, ['volume', 'promote', clone.name])
    if (verdict === 'done') clone.base = undefined
  }

  async deleteVolume(volume = this.own()): Promise<void> {
    if (!volume) return
    await this.model.stopClients(volume)
    const { host, name } = volume
    const { verdict } = await this.do(host, ['volume', 'delete', name, '--force'])
    await this.deleted(volume, verdict)
  }

  async deleted(volume: ModelVolume, verdict: Verdict): Promise<void> {
    const { host, name } = volume
    const isGone = verdict === 'done' || (verdict === 'unknown' && !(await this.names(host, 'volume', 'list')).some(row => row.name === name))
    await this.model.stopClients(volume)
    if (isGone && [...this.model.mirrors].some(({ source }) => source === volume)) this.model.fail(`${host.name}: ${name} is deleted under its mirror`)
    if (isGone) this.gone(volume)
  }

  gone(volume: ModelVolume): void {
    const { host, name } = volume
    this.model.volumes.delete(volume)
    const wrong = volume.backing === undefined ? '' : volume.content.judge(serialsOf(readFileSync(volume.backing)), false)
    if (wrong) this.model.fail(`${host.name}: what ${name} leaves in ${volume.backing}: ${wrong}`)
    for (const [group, members] of this.model.groups) {
      this.model.groups.set(group, members.filter(member => member !== volume))
    }
  }

  /** Of a source as well, whose target follows; clients may go on while it grows. */
  async resize(): Promise<void> {
    const volume = this.own()
    if (!volume || [...this.model.mirrors].some(({ source, target, isSplit, kind }) => target === volume || (source === volume && (isSplit || kind === 'plain')))) return
    const { host, content } = volume
    const sectors = MIB_SECTORS + Math.floor(this.random() * MIB_SECTORS)
    if (sectors < content.sectors) await this.model.stopClients(volume)
    const { verdict } = await this.do(host, ['volume', 'resize', volume.name, '--size', String(sectors * SECTOR), '--shrink'])
    const rows = verdict === 'unknown' ? await host.ask('volume', 'show', volume.name) as { sizeBytes: number } : undefined
    if (verdict === 'done' || rows?.sizeBytes === sectors * SECTOR) content.resize(sectors)
  }

  /** What differs must be listed. */
  async diff(): Promise<void> {
    const volume = this.own()
    const [name, point] = volume ? this.pick([...volume.points].filter(([, { content }]) => content)) ?? [] : []
    if (!name) return
    await this.model.stopClients(volume!)
    const { host, content } = volume!
    const { verdict, value } = await this.do(host, ['snapshot', 'diff', volume!.name, name, '--limit', '100000'], [])
    if (verdict !== 'done') return
    const { ranges } = value as { ranges: { offset: number, length: number }[] }
    const missed = point!.content!.differences(content).find(sector =>
      !ranges.some(({ offset, length }) => sector * SECTOR >= offset && sector * SECTOR < offset + length))
    if (missed !== undefined) this.model.fail(`${host.name}: diff of ${volume!.name}@${name} does not list sector ${missed}`)
  }

  async group(): Promise<void> {
    const host = this.pick(this.hosts)
    const known = this.pick([...this.model.groups].filter(([name]) => this.model.groupHosts.get(name) === host))
    if (!known) {
      const members = [...this.model.volumes].filter(volume => volume.host === host && !volume.targetOf).slice(0, 2)
      if (members.length < 2) return
      const name = this.name('g')
      const { verdict } = await this.do(host, ['group', 'create', name, ...members.map(volume => volume.name)])
      this.model.groupHosts.set(name, host)
      if (await this.happened(host, verdict, ['group', 'list'], name)) this.model.groups.set(name, members)
      return
    }
    const [name, members] = known
    if (this.random() < 0.2 || members.length === 0) {
      const { verdict } = await this.do(host, ['group', 'delete', name])
      if (verdict === 'done' || (verdict === 'unknown' && !(await this.names(host, 'group', 'list')).some(row => row.name === name))) this.model.groups.delete(name)
    } else if (this.random() < 0.5) await this.groupSnapshot(host, name, members)
    else await this.groupRestore(host, name, members)
  }

  async groupSnapshot(host: ChaosHost, group: string, members: readonly ModelVolume[]): Promise<void> {
    if (members.some(({ points, targetOf }) => points.size >= POINTS_MAX || targetOf)) return
    const point = this.name('s')
    const taken = members.map(({ content }) => content.follow())
    const clients = members.map(volume => volume.clients)
    const { verdict } = await this.do(host, ['group', 'snapshot', group, point])
    members.forEach(({ content }, index) => { content.unfollow(taken[index]!) })
    const there = await Promise.all(members.map(({ name }) => this.happened(host, verdict, ['snapshot', 'list', name], point)))
    if (new Set(there).size > 1) this.model.fail(`${host.name}: group snapshot ${point} is there in some volumes only`)
    if (there[0]) await this.judgeInstant(members.map((volume, index) => ({ host, name: `${volume.name}@${point}`, clients: clients[index] })))
    if (there[0]) members.forEach((volume, index) => { volume.points.set(point, { content: taken[index]!, isAuto: false, uuid: '' }) })
  }

  /** Of those that had clients, who may go on. */
  async judgeInstant(exports: readonly { readonly host: ChaosHost, readonly name: string, readonly clients: ChaosClients | undefined }[]): Promise<void> {
    const contents: { name: string, log: InstantLog, found: Int32Array }[] = []
    for (const { host, name, clients } of exports) {
      const found = clients && await readExport(host.server.socketPath, name).catch(() => undefined)
      if (found) contents.push({ name, log: clients.instants, found })
    }
    const wrong = judgeInstant(contents)
    if (wrong) this.model.fail(`not of one instant: ${wrong}`)
  }

  async groupRestore(host: ChaosHost, group: string, members: readonly ModelVolume[]): Promise<void> {
    const point = [...members[0]!.points.keys()].find(name => members.every(({ points, content, targetOf }) => {
      const one = points.get(name)?.content
      return one && one.sectors === content.sectors && !targetOf
    }))
    if (point === undefined) return
    for (const volume of members) await this.model.stopClients(volume)
    const known = new Set((await this.names(host, 'snapshot', 'list')).map(row => row.uuid))
    const befores = members.map(({ content }) => content.copy())
    const { verdict } = await this.do(host, ['group', 'restore', group, point, '--force', ...members.some(({ hasBudget }) => hasBudget) ? ['--no-wait'] : []])
    for (const [index, volume] of members.entries()) {
      volume.copiesUntilMs = Date.now() + COPIES_MS
      const content = volume.points.get(point)!.content!
      if (verdict === 'done') volume.content.become(content)
      else if (verdict === 'unknown') volume.content.mayBecome(content)
      const undo = (await this.names(host, 'snapshot', 'list', volume.name)).find(row => !known.has(row.uuid) && row.labels['auto'] === 'undo')
      if (undo) volume.points.set(undo.name, { content: befores[index]!, isAuto: true, uuid: undo.uuid })
    }
  }

  /** The first snapshot is due at once; what it drops later is its own. */
  async schedule(): Promise<void> {
    const volume = this.own()
    if (!volume) return
    const { host, name } = volume
    const words = this.pick([['set', name, '--hourly', '1'], ['set', name, '--daily', '2', '--keep-bookmarks'], ['clear', name], ['show', name]])
    await this.do(host, ['schedule', ...words])
  }

  /** As a start of the server would. */
  async reopen(): Promise<void> {
    const volume = this.own()
    if (!volume) return
    await this.model.stopClients(volume)
    const { verdict } = await this.do(volume.host, ['volume', 'reopen', volume.name])
    if (verdict === 'done') await this.model.readAll(volume.host, volume)
  }

  async budget(): Promise<void> {
    const volume = this.own()
    if (!volume) return
    volume.hasBudget = true
    await this.do(volume.host, ['volume', 'set-budget', volume.name, ...this.pick([['--limit', '256KiB'], ['--unlimited'], ['--limit', '1MiB', '--order', 'fail']])])
  }

  /** Closed to new clients, and open again. */
  async hide(): Promise<void> {
    const volume = this.own()
    if (!volume) return
    const { host, name } = volume
    const { outages } = host
    const { verdict } = await this.do(host, ['export', 'hide', name])
    const isIn = verdict === 'done' && await readExport(host.server.socketPath, name).then(() => true, () => false)
    if (isIn && outages === host.outages) this.model.fail(`${host.name}: ${name} is hidden, and lets a client in`)
    if (this.random() < 0.5) await this.do(host, ['export', 'kick', name, '--how', this.pick(['soft', 'hard'])])
    for (let attempt = 0; attempt < 10 && (await this.do(host, ['export', 'unhide', name])).verdict !== 'done'; attempt++) await sleep(100)
    await this.model.stopClients(volume)
  }
}
