/**
 * ChaosOperator: what operators do over several commands: schedules at short intervals beside mirrors that keep snapshots, budgets that are set
 * low and raised again amid a restore, deletions by force, failing over and back, and mirrors of mirrors' targets.
 *
 * Each step ends with what an operator would ask for, and with a look at every side of it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { readExport } from './chaos-client.js'
import { ChaosCopies } from './chaos-copies.js'
import type { ChaosContent } from './chaos-content.js'
import type { ChaosHost } from './chaos-host.js'
import { LINK, MIRRORS_MAX } from './chaos-mirrors.js'
import type { ModelMirror, ModelVolume } from './chaos-model.js'
import { POINTS_MAX } from './chaos-steps.js'

const DUE_MS = 5000
const JOB_MS = 60_000
const WORK_MS = 1500
const ATTEMPTS = 30
const BUDGETS = ['0', '4KiB', '64KiB', '256KiB', '1MiB']
const ANY = [3, ...LINK]

export class ChaosOperator extends ChaosCopies {
  /** As if hours went by: a schedule is due at once when none of its snapshots is there. */
  async churn(): Promise<void> {
    const mirrors = [...this.model.mirrors].filter(({ keeps, isSplit }) => keeps && !isSplit)
    const mirror = this.pick(mirrors)
    const volume = mirror?.source ?? this.own()
    // Behind the full hour the schedule itself would drop what it has made.
    if (!volume || volume.targetOf || volume.points.size >= POINTS_MAX || new Date().getMinutes() === 59) return
    const { host, name } = volume
    for (let round = 0; round < 3; round++) {
      const taken = volume.content.follow()
      const known = new Set((await this.names(host, 'snapshot', 'list', name)).map(({ uuid }) => uuid))
      await this.do(host, ['schedule', 'set', name, '--hourly', '1', ...this.random() < 0.3 ? ['--keep-bookmarks'] : []])
      const made = await this.#scheduled(host, name, known)
      volume.content.unfollow(taken)
      if (made) volume.points.set(made.name, { content: taken, isAuto: false, uuid: made.uuid })
      if (made && this.random() < 0.5) await this.model.readPoint(volume, made.name)
      if (mirror && this.random() < 0.4) await this.sync([mirror])
      if (mirror && this.random() < 0.5) await this.carried()
      for (const point of (await this.names(host, 'snapshot', 'list', name)).filter(one => one.labels['auto'] === 'schedule')) {
        if (this.random() < 0.8) await this.deletePoint(volume, point.name)
      }
    }
    for (const point of volume.points.keys()) if (point.startsWith('auto-')) volume.points.delete(point)
    for (let attempt = 0; attempt < ATTEMPTS && (await this.do(host, ['schedule', 'clear', name])).verdict !== 'done'; attempt++) await sleep(100)
  }

  async #scheduled(host: ChaosHost, volume: string, known: ReadonlySet<string>): Promise<{ name: string, uuid: string } | undefined> {
    for (const deadline = Date.now() + DUE_MS * this.random(); Date.now() < deadline; await sleep(50)) {
      const rows = await this.names(host, 'snapshot', 'list', volume) as { name: string, uuid: string, labels: Record<string, string> }[]
      const made = rows.find(({ uuid, name, labels }) => !known.has(uuid) && labels['auto'] === 'schedule' && !name.endsWith('-mark'))
      if (made) return made
    }
    return undefined
  }

  /** Amid a restore, and with clients: who has no room waits or is refused, and goes on when there is some. */
  async squeeze(): Promise<void> {
    const volume = this.own()
    const name = volume && this.pick([...volume.points].filter(([, { content, isAuto }]) => content && !isAuto).map(([one]) => one))
    if (!name) return
    await this.model.stopClients(volume)
    const { host } = volume
    volume.hasBudget = true
    await this.do(host, ['volume', 'set-budget', volume.name, '--limit', this.pick(BUDGETS), ...this.#order()])
    const id = await this.restoreLeft(volume, name)
    if (this.random() < 0.7) await this.model.startClients(volume)
    for (let round = 0; round < 3; round++) {
      await sleep(this.random() * 400)
      await this.do(host, ['volume', 'set-budget', volume.name, ...this.random() < 0.2 ? ['--unlimited'] : ['--limit', this.pick(BUDGETS)], ...this.#order()])
      if (this.random() < 0.3) await this.snapshot(volume)
    }
    if (this.random() < 0.5) await this.model.stopClients(volume)
    const { outages } = host
    if (!await this.lift(volume) || this.model.full.has(host) || id === undefined) return
    await this.#copied(volume, id, outages)
    if (!volume.clients) await this.model.readAll(host, volume)
  }

  #order(): string[] { return this.random() < 0.3 ? ['--order', this.pick(['fail', 'drop-undo-then-fail'])] : [] }

  /** What waited for room is tried again every 30 s. */
  async #copied({ host, name }: ModelVolume, id: number, outages: number): Promise<void> {
    for (const deadline = Date.now() + JOB_MS; outages === host.outages; await sleep(100)) {
      const { value } = await host.run('job', 'show', String(id))
      const job = value as { state: string, waiting: string | null, error: string | null } | undefined
      if (job?.state === 'done') return
      if (outages === host.outages && (job?.state === 'failed' || Date.now() > deadline)) {
        this.model.fail(`${host.name}: the restore of ${name} does not end: ${JSON.stringify(job)}`)
        return
      }
    }
  }

  /** Clients are let go, jobs end; what a mirror needs is refused, and then nothing has changed. */
  async deleteForce(): Promise<void> {
    // A plain server does not know that one of its volumes is a target.
    const volume = this.pick([...this.model.volumes].filter(({ targetOf }) => targetOf?.kind !== 'plain'))
    if (!volume) return
    const { host, name } = volume
    if (volume.targetOf) {
      const { verdict } = await this.do(host, ['volume', 'delete', name, '--force'])
      if (verdict === 'done') this.model.fail(`${host.name}: ${name} is deleted, though it is the target of ${volume.targetOf.name}`)
      await this.model.read(volume)
      return
    }
    if (volume.clients?.areLost) await this.model.stopClients(volume)
    await this.model.startClients(volume)
    await sleep(this.random() * 300)
    if (this.random() < 0.3) {
      const { outages } = host
      const { exit } = await host.run('volume', 'delete', name)
      if (exit === 0 && outages === host.outages && !volume.clients!.areLost) this.model.fail(`${host.name}: ${name} is deleted under its clients`)
      if (exit === 0) { this.gone(volume); return }
    }
    if (this.random() < 0.4) return this.deleteVolume(volume)
    const { outages } = host
    const { verdict } = await this.do(host, ['volume', 'delete', name, '--force'])
    if (verdict === 'refused') {
      if (outages === host.outages && volume.clients?.areLost && !volume.clients.failure) this.model.fail(`${host.name}: ${name} is not deleted, and its clients are gone`)
    } else await this.deleted(volume, verdict)
  }

  /** The peer takes over while the source's server is down or sleeps; both are worked on; and back again. */
  async failover(): Promise<void> {
    const mirror = this.pick([...this.model.mirrors].filter(one => one.kind === 'peer' && !one.isSplit && one.isWhole))
    if (!mirror) return
    const { host, source, target } = mirror
    if (!source.clients && this.random() < 0.5) await this.model.startClients(source)
    const back = await this.#lose(host)
    const { verdict } = await this.do(target.host, ['replica', 'promote', target.name], LINK)
    if (verdict === 'done') {
      await this.letGo(mirror, target)
      await this.model.read(target)
      await this.#work(target)
    }
    await back()
    if (verdict !== 'done' && !await this.isReleased(target)) return
    if (verdict !== 'done') await this.letGo(mirror, target)
    await this.#work(source)
    await this.refused(host, mirror.name)
    await this.model.stopClients(target)
    await this.model.read(target)
    if (this.random() < 0.3) await this.do(target.host, ['replica', 'forget', target.name])
    await this.#failBack(source, target)
  }

  /** Answers how it comes back. */
  async #lose(host: ChaosHost): Promise<() => Promise<void>> {
    const how = this.pick(['kill', 'stop', 'sleep'] as const)
    if (how === 'sleep') {
      host.freeze()
      return async () => { host.thaw() }
    }
    await host.down(how)
    await this.model.stopHost(host)
    return () => host.up()
  }

  async #work(volume: ModelVolume): Promise<void> {
    if (!volume.clients) await this.model.startClients(volume)
    if (this.random() < 0.4) await this.snapshot(volume)
    await sleep(this.random() * WORK_MS)
  }

  /** A mirror the other way over what the old primary holds, which keeps that as a snapshot; then the peer lets go again. */
  async #failBack(source: ModelVolume, target: ModelVolume): Promise<void> {
    await this.model.stopClients(source)
    await this.model.read(source)
    const isFree = ![...this.model.mirrors].some(one => one.source === source || one.target === source) && ![...this.model.volumes].some(({ base }) => base?.volume === source)
    if (!isFree || source.content.sectors !== target.content.sectors || !source.content.isSized || !target.content.isSized) return
    if (source.grainSectors !== target.grainSectors || this.model.mirrors.size >= MIRRORS_MAX) return
    const before = source.content.copy()
    const mirror = await this.mirrorOnto(target, source, 'peer')
    if (!mirror?.isWhole) return
    await this.#kept(mirror, before)
    if (this.random() < 0.5) return
    await this.model.stopClients(target)
    await this.sync([mirror])
    await this.model.read(target)
    const { verdict } = await this.do(source.host, ['replica', 'promote', source.name], LINK)
    if (verdict !== 'done' && !(verdict === 'unknown' && await this.isReleased(source))) return
    await this.letGo(mirror, source)
    await this.model.read(source)
    await this.refused(target.host, mirror.name)
  }

  /** What the old primary held alone is in a snapshot, until the disk has no room for it. */
  async #kept({ name: mirror, target }: ModelMirror, before: ChaosContent): Promise<void> {
    const { host, name } = target
    const rows = await this.names(host, 'snapshot', 'list', name)
    const kept = rows.filter(row => row.name.startsWith(`before-${mirror}-`))
    if (kept.length === 0) {
      if (!this.model.full.has(host)) this.model.fail(`${host.name}: ${mirror} has kept nothing of what ${name} held: ${rows.map(row => row.name).join()}`)
      return
    }
    const found = await readExport(host.server.socketPath, `${name}@${kept[0]!.name}`).catch(() => undefined)
    const wrong = found && before.judge(found, false)
    if (wrong) this.model.fail(`${host.name}: ${name}@${kept[0]!.name} is not what ${name} held: ${wrong}`)
  }

  /** A mirror of what a mirror's target shows, on a third server or where there is room. */
  async cascade(): Promise<void> {
    const first = this.pick([...this.model.mirrors].filter(one => one.kind !== 'plain' && !one.isSplit && one.isWhole))
    if (!first || !this.hasRoom(first.target.host)) return
    const { host, name: between } = first.target
    const other = this.random() < 0.2 ? host : this.other(host)
    if (!this.hasRoom(other)) return
    const [name, to] = [this.name('m'), this.name('t')]
    const target = other === host ? [to] : [other.target(to), '--secret', other.secret]
    const may = first.shown.follow()
    const { verdict } = await this.do(host, ['mirror', 'create', name, between, ...target, ...this.options(other === host ? 'local' : 'peer').options], ANY)
    if (!await this.happened(host, verdict, ['mirror', 'list'], name)) {
      first.shown.unfollow(may)
      return this.clearAway(other, to)
    }
    const volume = this.model.add(other, to, may, first.source.grainSectors)
    volume.wasTarget = true
    const second: ModelMirror = { host, name, kind: other === host ? 'local' : 'peer', mode: 'periodic', source: first.target, target: volume, isSplit: false,
      isPaused: false, shown: may, isWhole: false, keeps: false }
    volume.targetOf = second
    this.model.mirrors.add(second)
    await this.#pass(first, second, may)
    await this.#endCascade(first, second)
  }

  async #pass(first: ModelMirror, second: ModelMirror, may: ChaosContent): Promise<void> {
    for (let round = 0; round < 3; round++) {
      if (this.random() < 0.6) await this.#work(first.source)
      if (this.random() < 0.3) await this.model.stopClients(first.source)
      for (const one of this.random() < 0.2 ? [second, first] : [first, second]) {
        const before = first.shown
        const since = first.source.content.follow()
        const { verdict } = await this.do(one.host, ['mirror', 'sync', one.name], LINK)
        first.source.content.unfollow(since)
        if (verdict !== 'done') continue
        if (one === second) { second.isWhole = true; continue }
        first.source.content.unfollow(before)
        first.shown = first.source.content.follow()
        first.shown.blur(since)
        first.shown.lead(may)
      }
      await this.model.read(second.target)
      await this.model.read(first.target)
    }
  }

  /** Quiet, all three are equal; then the third stands on its own. */
  async #endCascade(first: ModelMirror, second: ModelMirror): Promise<void> {
    const { source, target: { host, name: between } } = first
    await this.model.stopClients(source)
    await this.model.read(source)
    await this.sync([first])
    const isThere = await this.do(second.host, ['mirror', 'sync', second.name], LINK)
    const found = first.isWhole && isThere.verdict === 'done' ? await readExport(second.target.host.server.socketPath, second.target.name).catch(() => undefined) : undefined
    const wrong = found && first.shown.judge(found, false)
    if (wrong) this.model.fail(`${second.target.host.name}: ${second.target.name}, target of ${second.name} of ${between}, target of ${first.name}: ${wrong}`)
    if (this.random() < 0.5) {
      const { verdict } = await this.do(host, ['volume', 'delete', between, '--force'])
      if (verdict === 'done') this.model.fail(`${host.name}: ${between} is deleted between two mirrors`)
    }
    for (let attempt = 0; ; attempt++) {
      const { verdict } = await this.do(second.host, ['mirror', 'delete', second.name], LINK)
      if (verdict === 'done' || !(await this.names(second.host, 'mirror', 'list')).some(row => row.name === second.name)) break
      if (attempt > ATTEMPTS) { this.model.fail(`${second.host.name}: mirror ${second.name} cannot be deleted`); return }
      await sleep(200)
    }
    first.shown.unfollow(second.shown)
    await this.letGo(second, second.target)
    await this.model.read(second.target)
  }
}
