/**
 * ChaosMirrors: random commands about mirrors, within one store, to the other host as a peer, and to it as a plain NBD server.
 *
 * A target shows, sector by sector, what its source has held since the point that is known to be declared: `shown` follows the source from
 * the beginning of the last `sync` that was answered with yes. While the source is quiet that is exact.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { ChaosContent, SECTOR } from './chaos-content.js'
import type { ChaosHost } from './chaos-host.js'
import type { ModelMirror, ModelVolume } from './chaos-model.js'
import { ChaosFiles } from './chaos-files.js'

export const MIRRORS_MAX = 4
/** What a lost link, a killed peer or a full disk there ends with. */
export const LINK = [4, 5, 6, 7, 9, 130]

export class ChaosMirrors extends ChaosFiles {
  any(isSplit?: boolean): ModelMirror | undefined {
    return this.pick([...this.model.mirrors].filter(mirror => isSplit === undefined || mirror.isSplit === isSplit))
  }

  /** One, or several of one host. */
  some(isSplit: boolean): ModelMirror[] {
    const one = this.any(isSplit)
    const alike = [...this.model.mirrors].filter(mirror => mirror.isSplit === isSplit && mirror.host === one?.host)
    return !one ? [] : this.random() < 0.5 ? [one] : alike
  }

  async createMirror(): Promise<void> {
    const source = this.own()
    if (!source || this.model.mirrors.size >= MIRRORS_MAX) return
    const { host } = source
    const kind = this.pick(['local', 'peer', 'peer', 'plain'] as const)
    const other = kind === 'local' ? host : this.other(host)
    const [name, to] = [this.name('m'), this.name('t')]
    if (kind === 'plain') {
      const made = await this.do(other, ['volume', 'create', to, '--size', String(source.content.sectors * SECTOR)])
      if (!await this.happened(other, made.verdict, ['volume', 'list'], to)) return
    }
    const target = kind === 'local' ? [to] : kind === 'plain' ? [other.uri(to)] : [other.target(to), '--secret', other.secret]
    const { mode, keeps, options } = this.options(kind)
    const shown = source.content.follow()
    const { verdict } = await this.do(host, ['mirror', 'create', name, source.name, ...target, ...options], LINK)
    const isThere = await this.happened(host, verdict, ['mirror', 'list'], name)
    if (!isThere) source.content.unfollow(shown)
    if (!isThere && kind !== 'plain') return this.clearAway(other, to)
    // What a mirror makes has its source's grain.
    const grainSectors = kind === 'plain' ? 4096 / SECTOR : source.grainSectors
    const volume = this.model.add(other, to, isThere ? shown : new ChaosContent(source.content.sectors), grainSectors)
    volume.wasTarget = true
    if (!isThere) return
    const mirror: ModelMirror = { host, name, kind, mode, source, target: volume, isSplit: false, isPaused: false, shown, isWhole: false, keeps }
    volume.targetOf = mirror
    this.model.mirrors.add(mirror)
    await this.sync([mirror])
  }

  options(kind: ModelMirror['kind']): { readonly mode: string, readonly keeps: boolean, readonly options: readonly string[] } {
    const mode = this.pick(['periodic', 'periodic', 'async', 'sync'])
    const keeps = kind !== 'plain' && this.random() < 0.4
    return { mode, keeps, options: ['--mode', mode, '--interval', '1s', '--timeout', '2s', ...keeps ? ['--keep-snapshots', '2'] : []] }
  }

  /** A mirror that was refused, or cut short, may leave a volume that it made, which is empty or nobody may read. */
  async clearAway(host: ChaosHost, name: string): Promise<void> {
    for (let attempt = 0; attempt < 10; attempt++) {
      if (!(await this.names(host, 'volume', 'list')).some(row => row.name === name)) return
      const replicas = await host.ask('replica', 'list') as { volume: string }[]
      if (replicas.some(({ volume }) => volume === name)) await this.do(host, ['replica', 'forget', name], [3, 4, 5, 6])
      await this.do(host, ['volume', 'delete', name, '--force'], [3, 4, 5, 6])
      await sleep(300)
    }
    this.model.fail(`${host.name}: ${name}, which a mirror has left, does not go`)
  }

  /** When it is answered the targets have all that was answered before. */
  async sync(only = this.some(false)): Promise<void> {
    if (only.length === 0) return
    const since = only.map(({ source }) => source.content.follow())
    const { verdict } = await this.do(only[0]!.host, ['mirror', 'sync', ...only.map(({ name }) => name)], LINK)
    for (const [index, mirror] of only.entries()) {
      const { source } = mirror
      source.content.unfollow(verdict === 'done' ? mirror.shown : since[index]!)
      if (verdict !== 'done') continue
      mirror.shown = since[index]!
      mirror.isWhole = true
      await this.look(mirror)
    }
  }

  /** While the link is up, what its clients see; a first copy that is not complete lets nobody in. */
  async look(mirror = this.any()): Promise<void> { if (mirror) await this.model.read(mirror.target) }

  async pause(): Promise<void> {
    const mirror = this.any(false)
    if (!mirror) return
    const { verdict } = await this.do(mirror.host, ['mirror', mirror.isPaused ? 'resume' : 'pause', mirror.name], LINK)
    if (verdict === 'done') mirror.isPaused = !mirror.isPaused
  }

  /** Both sides are equal, says the server; nobody has touched the target. */
  async verify(): Promise<void> {
    const mirror = this.any(false)
    if (mirror) await this.do(mirror.host, ['mirror', 'verify', mirror.name], LINK)
  }

  /** Several at one instant, or none. */
  async split(mirrors = this.some(false)): Promise<void> {
    if (mirrors.length === 0) return
    const { host } = mirrors[0]!
    const isAtOnce = this.random() < 0.3
    const since = mirrors.map(({ source }) => source.content.follow())
    const { verdict } = await this.do(host, ['mirror', 'split', ...mirrors.map(({ name }) => name), ...isAtOnce ? ['--at-once'] : []], LINK)
    mirrors.forEach(({ source }, index) => { source.content.unfollow(since[index]!) })
    const states = verdict === 'done' ? undefined : await this.names(host, 'mirror', 'list') as { name: string, state?: string }[]
    const isSplit = mirrors.map(({ name }) => states?.find(row => row.name === name)?.state === 'split' || !states)
    if (new Set(isSplit).size > 1) this.model.fail(`${host.name}: of ${mirrors.map(({ name }) => name).join()} some are split`)
    if (isSplit[0] && verdict === 'refused') this.model.fail(`${host.name}: ${mirrors[0]!.name} is split, though that was refused`)
    if (!isSplit[0]) return
    for (const [index, mirror] of mirrors.entries()) {
      const { source, target } = mirror
      source.content.unfollow(mirror.shown)
      if (verdict !== 'done') mirror.shown.blur(since[index]!)
      target.content = (verdict === 'done' && !isAtOnce ? since[index]! : mirror.shown).copy()
      mirror.isSplit = true
      target.targetOf = undefined
      // A target that has not been told yet is read-only until it is.
      const told = (await host.ask('mirror', 'show', mirror.name) as { problem: string | null }).problem === null
      if (told) await this.model.read(target)
    }
    if (isAtOnce || new Set(mirrors.map(({ mode }) => mode)).size > 1 || mirrors[0]!.mode !== 'periodic') return
    await this.judgeInstant(mirrors.map(({ source, target }) => ({ host: target.host, name: target.name, clients: source.clients })))
  }

  /** The sources of several get their targets' content at one instant, or none does. */
  async resync(mirrors = this.some(true)): Promise<void> {
    const sources = new Set(mirrors.map(({ source }) => source))
    if (mirrors.length === 0) return
    const { host } = mirrors[0]!
    let isReverse = this.random() < 0.4 && sources.size === mirrors.length
    for (const source of sources) isReverse &&= await this.lift(source)
    for (const { source, target } of mirrors) for (const volume of [source, target]) await this.model.stopClients(volume)
    const before = mirrors.map(({ source, target }) => [source.content.copy(), target.content.copy()] as const)
    const { verdict } = await this.do(host, ['mirror', 'resync', ...mirrors.map(({ name }) => name), ...isReverse ? ['--reverse', '--force'] : []], LINK)
    for (const [index, mirror] of mirrors.entries()) {
      const { source, target } = mirror
      const [ours, theirs] = before[index]!
      const { state } = verdict === 'done' ? { state: 'paired' } : await host.ask('mirror', 'show', mirror.name) as { state: string }
      if (isReverse) source.copiesUntilMs = Date.now() + 40_000
      if (isReverse && verdict === 'done') source.content.become(theirs)
      else if (isReverse) source.content.mayBecome(theirs)
      if (state === 'split') continue
      mirror.isSplit = false
      mirror.shown = source.content.follow()
      target.targetOf = mirror
      if (verdict !== 'done') { // it goes on by itself
        mirror.shown.blur(theirs)
        mirror.shown.blur(ours)
      } else await this.look(mirror)
    }
  }

  /** The target stays, at its declared point. */
  async deleteMirror(): Promise<void> {
    const mirror = this.any()
    if (!mirror) return
    const { host, name, target } = mirror
    const { verdict } = await this.do(host, ['mirror', 'delete', name], LINK)
    const isGone = verdict === 'done' || (verdict === 'unknown' && !(await this.names(host, 'mirror', 'list')).some(row => row.name === name))
    if (isGone) await this.letGo(mirror, target)
  }

  async letGo(mirror: ModelMirror, target: ModelVolume): Promise<void> {
    this.model.mirrors.delete(mirror)
    if (mirror.isSplit) return
    mirror.source.content.unfollow(mirror.shown)
    target.targetOf = undefined
    target.content = mirror.shown.copy()
  }

  /** The peer takes over: its mirror is refused from then on, and can only be deleted. */
  async takeOver(): Promise<void> {
    const mirror = this.pick([...this.model.mirrors].filter(one => one.kind === 'peer' && !one.isSplit))
    if (!mirror) return
    const { target, host, name } = mirror
    const { verdict } = await this.do(target.host, ['replica', 'promote', target.name], LINK)
    if (verdict !== 'done' && !(verdict === 'unknown' && await this.isReleased(target))) return
    await this.letGo(mirror, target)
    await this.model.read(target)
    if (this.random() < 0.4) await this.do(target.host, ['replica', 'forget', target.name])
    await this.refused(host, name)
  }

  async isReleased({ host, name }: ModelVolume): Promise<boolean> {
    return (await host.ask('replica', 'list') as { volume: string, state: string }[]).some(({ volume, state }) => volume === name && state === 'released')
  }

  /** Its peer is nobody's any more: it can only be deleted. */
  async refused(host: ChaosHost, name: string): Promise<void> {
    const refused = await host.run('mirror', 'sync', name)
    if (refused.exit === 0) this.model.fail(`${host.name}: mirror ${name} goes on, though its peer was promoted`)
    for (let attempt = 0; (await host.run('mirror', 'delete', name)).exit !== 0; attempt++) {
      if (attempt > 20) { this.model.fail(`${host.name}: mirror ${name} cannot be deleted`); return }
    }
  }

  /** What the peer's own server says of it. */
  async replica(): Promise<void> {
    const mirror = this.pick([...this.model.mirrors].filter(one => one.kind === 'peer'))
    if (!mirror) return
    const { host, name } = mirror.target
    const row = (await host.ask('replica', 'list') as { volume: string, state: string }[]).find(({ volume }) => volume === name)
    if (!row) this.model.fail(`${host.name}: replica list does not have ${name}`)
    if (!mirror.isSplit) await this.do(host, ['replica', 'verify', name], LINK)
  }
}

/** Of a host whose links are cut, or that is stopped for a while. */
export function trouble(host: ChaosHost, random: () => number): () => void {
  if (random() < 0.5) {
    host.relay.cut()
    return () => { host.relay.mend() }
  }
  host.freeze()
  return () => { host.thaw() }
}
