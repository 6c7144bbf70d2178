/**
 * ChaosTwins: two commands about one object at the same instant. Each order of the two is right, a mixture is not: of two that exclude each
 * other one is refused, and what is there afterwards is what those that were answered with yes have left.
 */
import { ChaosOperator } from './chaos-operator.js'
import type { ChaosHost } from './chaos-host.js'
import type { ModelMirror, ModelVolume } from './chaos-model.js'
import { POINTS_MAX } from './chaos-steps.js'
import { SECTOR } from './chaos-content.js'
import type { Outcome } from './outcome.js'

const MIB_SECTORS = 2048
/** Not there, there already, busy, in the wrong state, no room; the link; a job that the other one has cancelled. */
const REFUSALS = [3, 4, 5, 6, 7, 9, 130]

type Words = readonly string[]

export class ChaosTwins extends ChaosOperator {
  async twins(): Promise<void> {
    await this.pick([
      () => this.#twoPoints(), () => this.#deletions(), () => this.#cloned(), () => this.#resized(), () => this.#restored(),
      () => this.#created(), () => this.#imported(), () => this.#mirrored(), () => this.#promoted(), () => this.#ended(), () => this.#ended(),
    ])()
  }

  /** Both at once, in either order; nobody is killed meanwhile. What is neither yes nor a refusal is a failure. */
  async #both(...asked: readonly (readonly [ChaosHost, Words])[]): Promise<Outcome[]> {
    const outcomes = await Promise.all((this.random() < 0.5 ? asked : [...asked].reverse()).map(([host, words]) => host.run(...words)))
    for (const { exit, words, stderr } of outcomes) if (exit !== 0 && !REFUSALS.includes(exit!)) this.model.fail(`${words.join(' ')}, at once with another: ${stderr}`)
    return asked.map(([, words]) => outcomes.find(outcome => words.every((word, index) => outcome.words[index] === word))!)
  }

  #point(): [volume: ModelVolume, name: string] | undefined {
    const volume = this.own()
    const name = volume && this.pick([...volume.points].filter(([one, { content }]) => content && one.startsWith('s')).map(([one]) => one))
    return name === undefined ? undefined : [volume!, name]
  }

  async #hasPoint(volume: ModelVolume, name: string): Promise<boolean> {
    return (await this.names(volume.host, 'snapshot', 'list', volume.name)).some(row => row.name === name)
  }

  /** Of one name: exactly one of them. */
  async #twoPoints(): Promise<void> {
    const volume = this.own()
    if (!volume || volume.points.size >= POINTS_MAX) return
    const name = this.name('s')
    const taken = volume.content.follow()
    const words = ['snapshot', 'create', volume.name, name]
    const [a, b] = await Promise.all([volume.host.run(...words), volume.host.run(...words)])
    volume.content.unfollow(taken)
    const made = [a, b].filter(({ exit }) => exit === 0)
    if (made.length > 1) this.model.fail(`${volume.host.name}: ${words.join(' ')} is done two times`)
    if (made.length === 0) return
    volume.points.set(name, { content: taken, isAuto: false, uuid: (made[0]!.value as { uuid: string }).uuid })
    await this.model.readPoint(volume, name)
  }

  /** A point, and it once more, or the volume it belongs to, or its name. */
  async #deletions(): Promise<void> {
    const [volume, name] = this.#point() ?? []
    if (!volume || !name) return
    const to = this.name('s')
    const other = this.pick<Words>([['snapshot', 'delete', volume.name, name], ['snapshot', 'rename', volume.name, name, to],
      ['snapshot', 'pin', volume.name, name, '--owner', 'chaos', '--expires', '1s']])
    await this.#both([volume.host, ['snapshot', 'delete', volume.name, name]], [volume.host, other])
    for (const one of [name, to]) {
      const point = volume.points.get(name)
      if (!point || !await this.#hasPoint(volume, one)) continue
      if (one === to) volume.points.set(to, point)
      await this.model.readPoint(volume, one)
    }
    if (!await this.#hasPoint(volume, name)) volume.points.delete(name)
  }

  /** A clone of a point that is being deleted: it is whole, or not there. */
  async #cloned(): Promise<void> {
    const [volume, name] = this.#point() ?? []
    if (!volume || !name || !this.hasRoom(volume.host)) return
    const { host } = volume
    const to = this.name('c')
    const [clone, gone] = await this.#both([host, ['snapshot', 'clone', volume.name, name, to]], [host, ['snapshot', 'delete', volume.name, name]])
    if (clone!.exit === 0 && gone!.exit === 0) this.model.fail(`${host.name}: ${volume.name}@${name} is gone, and ${to} is its clone`)
    if (clone!.exit === 0) {
      const made = this.model.add(host, to, volume.points.get(name)!.content!.copy(), volume.grainSectors)
      made.base = { volume, point: name }
      await this.model.read(made)
    }
    if (gone!.exit === 0) volume.points.delete(name)
  }

  /** Beside a snapshot, which has the size before or after. */
  async #resized(): Promise<void> {
    const volume = this.alone()
    if (!volume || volume.points.size >= POINTS_MAX) return
    await this.model.stopClients(volume)
    const { host, content } = volume
    const [sectors, name] = [MIB_SECTORS + Math.floor(this.random() * MIB_SECTORS), this.name('s')]
    const taken = content.follow()
    const [resize, snapshot] = await this.#both([host, ['volume', 'resize', volume.name, '--size', String(sectors * SECTOR), '--shrink']],
      [host, ['snapshot', 'create', volume.name, name]])
    if (resize!.exit === 0) content.resize(sectors)
    content.unfollow(taken)
    if (snapshot!.exit === 0) {
      volume.points.set(name, { content: taken, isAuto: false, uuid: (snapshot!.value as { uuid: string }).uuid })
      await this.model.readPoint(volume, name)
    }
    await this.model.read(volume)
  }

  /** From a point of another volume that is being deleted, or from one's own. */
  async #restored(): Promise<void> {
    const [from, name] = this.#point() ?? []
    if (!from || !name) return
    const { host } = from
    const volume = this.pick([from, ...[...this.model.volumes].filter(one => one.host === host && !one.targetOf && one.grainSectors === from.grainSectors && !one.base)])
    await this.model.stopClients(volume)
    const point = from.points.get(name)!.content!
    const [before, count] = [volume.content.copy(), Math.min(volume.content.sectors, point.sectors)]
    const known = new Set((await this.names(host, 'snapshot', 'list', volume.name)).map(row => row.name))
    const words = volume === from ? [volume.name, name] : [volume.name, `${from.name}@${name}`]
    volume.copiesUntilMs = Date.now() + 40_000
    const [restore, gone] = await this.#both([host, ['snapshot', 'restore', ...words, '--force', '--no-wait', '--rate', '300KiB']],
      [host, this.pick<Words>([['snapshot', 'delete', from.name, name], ['volume', 'reopen', from.name]])])
    if (restore!.exit === 0) volume.content.become(point, 0, count)
    const undo = (await this.names(host, 'snapshot', 'list', volume.name)).find(row => !known.has(row.name) && row.labels['auto'] === 'undo')
    if (undo) volume.points.set(undo.name, { content: before, isAuto: true, uuid: undo.uuid })
    if (gone!.exit === 0 && gone!.words[0] === 'snapshot') from.points.delete(name)
    await this.model.read(volume)
    if (from !== volume) await this.model.readAll(host, from)
  }

  /** Two of one name: one volume, as the one that was told so made it. */
  async #created(): Promise<void> {
    const host = this.pick(this.hosts)
    if (!this.hasRoom(host)) return
    const name = this.name('v')
    const sizes = [MIB_SECTORS + Math.floor(this.random() * MIB_SECTORS), MIB_SECTORS - 1]
    const outcomes = await this.#both(...sizes.map(sectors => [host, ['volume', 'create', name, '--size', String(sectors * SECTOR)]] as const))
    const made = sizes.filter((_, index) => outcomes[index]!.exit === 0)
    if (made.length > 1) this.model.fail(`${host.name}: ${name} is created two times`)
    if (made.length === 1) await this.model.read(this.model.add(host, name, this.empty(made[0]!), 8))
  }

  /** Into a name that somebody else takes meanwhile. */
  async #imported(): Promise<void> {
    const host = this.pick(this.hosts)
    if (!this.hasRoom(host)) return
    const name = this.name('i')
    const file = host.file('twin')
    const image = this.image(file, MIB_SECTORS + Math.floor(this.random() * MIB_SECTORS))
    const [imported, created] = await this.#both([host, ['volume', 'import', name, file]],
      [host, this.pick<Words>([['volume', 'create', name, '--size', '1MiB'], ['volume', 'delete', name, '--if-exists', '--force']])])
    const rows = await this.names(host, 'volume', 'list')
    if (!rows.some(row => row.name === name)) {
      if (imported!.exit === 0 && created!.words[1] === 'create') this.model.fail(`${host.name}: ${name} was imported, and is not there`)
      return
    }
    if (imported!.exit === 0 && created!.words[1] === 'create' && created!.exit === 0) this.model.fail(`${host.name}: ${name} was imported, and created`)
    await this.model.read(this.model.add(host, name, imported!.exit === 0 ? image : this.empty(MIB_SECTORS), 8))
  }

  /** A mirror whose source, or whose target's name, somebody else wants. */
  async #mirrored(): Promise<void> {
    const source = this.alone()
    if (!source || [...this.model.volumes].some(({ base }) => base?.volume === source)) return
    await this.model.stopClients(source)
    const { host } = source
    if (!this.hasRoom(host)) return
    const [name, to] = [this.name('m'), this.name('t')]
    const other = this.pick<Words>([['volume', 'delete', source.name, '--force'], ['volume', 'create', to, '--size', '1MiB'], ['mirror', 'delete', name],
      ['volume', 'reopen', source.name], ['mirror', 'create', this.name('m'), source.name, to]])
    const [made, second] = await this.#both([host, ['mirror', 'create', name, source.name, to, '--interval', '1s']], [host, other])
    if (made!.exit === 0 && second!.exit === 0 && (other[1] === 'create' || other[0] === 'volume' && other[1] === 'delete')) {
      this.model.fail(`${host.name}: ${made!.words.join(' ')} and ${other.join(' ')} are both done`)
    }
    for (const row of await this.names(host, 'mirror', 'list')) {
      if (![name, other[2]].includes(row.name) || !row.name.startsWith('m')) continue
      for (let attempt = 0; (await host.run('mirror', 'delete', row.name)).exit !== 0; attempt++) {
        if (attempt > 30) return this.model.fail(`${host.name}: mirror ${row.name} cannot be deleted`)
      }
    }
    const left = await this.names(host, 'volume', 'list')
    if (!left.some(row => row.name === source.name)) {
      if (other[1] !== 'delete' || second!.exit !== 0) this.model.fail(`${host.name}: ${source.name} is gone`)
      this.gone(source)
    } else await this.model.read(source)
    await this.clearAway(host, to)
  }

  /** A clone is made independent while what it is made of goes. */
  async #promoted(): Promise<void> {
    const clone = this.pick([...this.model.volumes].filter(({ base }) => base))
    if (!clone || clone.clients || !await this.lift(clone)) return
    const { host } = clone
    const { volume, point } = clone.base!
    const [promoted, gone] = await this.#both([host, ['volume', 'promote', clone.name]], [host, ['snapshot', 'delete', volume.name, point]])
    if (promoted!.exit === 0) clone.base = undefined
    if (gone!.exit === 0 && volume.points.delete(point) && promoted!.exit !== 0) this.model.fail(`${host.name}: ${volume.name}@${point} is gone under ${clone.name}`)
    await this.model.read(clone)
  }

  /** Whatever ends a pair, beside whatever goes on with it. */
  async #ended(): Promise<void> {
    const mirror = this.pick([...this.model.mirrors].filter(({ isSplit, kind, isWhole }) => !isSplit && kind !== 'plain' && isWhole))
    if (!mirror) return
    const { host, name, target } = mirror
    const promotion = [target.host, ['replica', 'promote', target.name]] as const
    const endings = [[host, ['mirror', 'delete', name]], [host, ['mirror', 'split', name]], [host, ['mirror', 'split', name, '--at-once']],
      ...mirror.kind === 'peer' ? [promotion, promotion] : []] as const
    const ending = this.pick(endings)
    const beside = this.pick([...endings.filter(one => one !== ending), [host, ['mirror', 'sync', name]], [host, ['mirror', 'verify', name]], [host, ['mirror', 'resync', name, '--whole']],
      [target.host, ['volume', 'delete', target.name, '--force']], [target.host, ['snapshot', 'create', target.name, this.name('s')]]] as const)
    const since = mirror.source.content.follow()
    await this.#both(ending, beside)
    mirror.source.content.unfollow(since)
    mirror.shown.blur(since)
    await this.#found(mirror)
  }

  /** What has become of a pair: it is asked of both sides; then it ends. */
  async #found(mirror: ModelMirror): Promise<void> {
    const { host, name, target } = mirror
    await this.model.stopClients(mirror.source)
    for (let attempt = 0; (await this.names(host, 'mirror', 'list')).some(row => row.name === name); attempt++) {
      if (attempt > 30) return this.model.fail(`${host.name}: mirror ${name} cannot be deleted`)
      await host.run('mirror', 'delete', name)
    }
    mirror.isSplit = false
    await this.letGo(mirror, target)
    if ((await this.names(target.host, 'volume', 'list')).some(row => row.name === target.name)) return this.#free(target)
    this.model.volumes.delete(target)
  }

  /** Nobody's replica, it can be read and be written to. */
  async #free(target: ModelVolume): Promise<void> {
    await this.model.read(target)
    await target.host.run('replica', 'promote', target.name)
    await target.host.run('replica', 'forget', target.name)
    await this.model.startClients(target)
  }
}
