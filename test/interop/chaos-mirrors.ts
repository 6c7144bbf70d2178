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

const MIRRORS_MAX = 3
/** What a lost link, a killed peer or a full disk there ends with. */
const LINK = [4, 5, 6, 7, 9, 130]

export class ChaosMirrors extends ChaosFiles {
  any(isSplit?: boolean): ModelMirror | undefined {
    return this.pick([...this.model.mirrors].filter(mirror => isSplit === undefined || mirror.isSplit === isSplit))
  }

  async createMirror(): Promise<void> {
    const source = this.own()
    if (!source || this.model.mirrors.size >= MIRRORS_MAX) return
    const { host } = source
    const kind = this.pick(['local', 'peer', 'peer', 'plain'] as const)
    const other = kind === 'local' ? host : this.hosts.find(one => one !== host)!
    const [name, to] = [this.name('m'), this.name('t')]
    if (kind === 'plain') {
      const made = await this.do(other, ['volume', 'create', to, '--size', String(source.content.sectors * SECTOR)])
      if (!await this.happened(other, made.verdict, ['volume', 'list'], to)) return
    }
    const mode = this.pick(['periodic', 'periodic', 'async', 'sync'])
    const target = kind === 'local' ? [to] : kind === 'plain' ? [other.uri(to)] : [other.target(to), '--secret', other.secret]
    const keep = kind !== 'plain' && this.random() < 0.4 ? ['--keep-snapshots', '2'] : []
    const shown = source.content.follow()
    const { verdict } = await this.do(host, ['mirror', 'create', name, source.name, ...target, '--mode', mode, '--interval', '1s', '--timeout', '2s', ...keep], LINK)
    const isThere = await this.happened(host, verdict, ['mirror', 'list'], name)
    if (!isThere) source.content.unfollow(shown)
    if (!isThere && kind !== 'plain') return this.clearAway(other, to)
    // What a mirror makes has its source's grain.
    const grainSectors = kind === 'plain' ? 4096 / SECTOR : source.grainSectors
    const volume = this.model.add(other, to, isThere ? shown : new ChaosContent(source.content.sectors), grainSectors)
    volume.wasTarget = true
    if (!isThere) return
    const mirror: ModelMirror = { host, name, kind, mode, source, target: volume, isSplit: false, isPaused: false, shown, isWhole: false, keeps: keep.length > 0 }
    volume.targetOf = mirror
    this.model.mirrors.add(mirror)
    await this.sync(mirror)
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

  /** When it is answered the target has all that was answered before. */
  async sync(mirror = this.any(false)): Promise<void> {
    if (!mirror) return
    const { source, host, name } = mirror
    const since = source.content.follow()
    const { verdict } = await this.do(host, ['mirror', 'sync', name], LINK)
    if (verdict !== 'done') { source.content.unfollow(since); return }
    source.content.unfollow(mirror.shown)
    mirror.shown = since
    mirror.isWhole = true
    await this.look(mirror)
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

  async split(): Promise<void> {
    const mirror = this.any(false)
    if (!mirror) return
    const { source, target, host, name } = mirror
    const isAtOnce = this.random() < 0.3
    const since = source.content.follow()
    const { verdict } = await this.do(host, ['mirror', 'split', name, ...isAtOnce ? ['--at-once'] : []], LINK)
    source.content.unfollow(since)
    const isSplit = verdict === 'done' || (verdict === 'unknown' && (await host.ask('mirror', 'show', name) as { state: string }).state === 'split')
    if (!isSplit) return
    source.content.unfollow(mirror.shown)
    target.content = (verdict === 'done' && !isAtOnce ? since : mirror.shown).copy()
    mirror.isSplit = true
    target.targetOf = undefined
    // A target that has not been told yet is read-only until it is.
    const told = (await host.ask('mirror', 'show', name) as { problem: string | null }).problem === null
    if (told) await this.model.read(target)
  }

  async resync(): Promise<void> {
    const mirror = this.any(true)
    if (!mirror) return
    const { source, target, host, name } = mirror
    const isReverse = this.random() < 0.4 && await this.lift(source)
    for (const volume of [source, target]) await this.model.stopClients(volume)
    const [ours, theirs] = [source.content.copy(), target.content.copy()]
    const { verdict } = await this.do(host, ['mirror', 'resync', name, ...isReverse ? ['--reverse', '--force'] : []], LINK)
    const { state } = verdict === 'done' ? { state: 'paired' } : await host.ask('mirror', 'show', name) as { state: string }
    if (isReverse) source.copiesUntilMs = Date.now() + 40_000
    if (isReverse && verdict === 'done') source.content.become(theirs)
    else if (isReverse) source.content.mayBecome(theirs)
    if (state === 'split') return
    mirror.isSplit = false
    mirror.shown = source.content.follow()
    target.targetOf = mirror
    if (verdict !== 'done') { // it goes on by itself
      mirror.shown.blur(theirs)
      mirror.shown.blur(ours)
    } else await this.look(mirror)
  }

  /** The target stays, at its declared point. */
  async deleteMirror(): Promise<void> {
    const mirror = this.any()
    if (!mirror) return
    const { host, name, target } = mirror
    const { verdict } = await this.do(host, ['mirror', 'delete', name], LINK)
    const isGone = verdict === 'done' || (verdict === 'unknown' && !(await this.names(host, 'mirror', 'list')).some(row => row.name === name))
    if (isGone) await this.#letGo(mirror, target)
  }

  async #letGo(mirror: ModelMirror, target: ModelVolume): Promise<void> {
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
    if (verdict !== 'done') return
    await this.#letGo(mirror, target)
    await this.model.read(target)
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
