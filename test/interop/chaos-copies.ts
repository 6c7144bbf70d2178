/**
 * ChaosCopies: random commands about what targets hold besides: mirrors over volumes that held something (the way back after a failover, too),
 * snapshots and clones of targets, and the source's snapshots that cycles and streams have carried there.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { readExport } from './chaos-client.js'
import { ChaosMirrors, LINK, MIRRORS_MAX } from './chaos-mirrors.js'
import type { ModelMirror, ModelVolume } from './chaos-model.js'
import { POINTS_MAX } from './chaos-steps.js'

const FORGET_ATTEMPTS = 10

export class ChaosCopies extends ChaosMirrors {
  /** Over a volume of the same size and grain; its points must stay as they are. */
  async mirrorOver(): Promise<void> {
    const [source, target] = this.pick(this.#pairs()) ?? []
    if (!source || !target || this.model.mirrors.size >= MIRRORS_MAX) return
    await this.mirrorOnto(source, target, source.host === target.host ? 'local' : this.pick(['peer', 'peer', 'plain'] as const))
  }

  /** Answers the mirror, if it is there. */
  async mirrorOnto(source: ModelVolume, target: ModelVolume, kind: ModelMirror['kind']): Promise<ModelMirror | undefined> {
    await this.model.stopClients(target)
    const { host, name: to } = target
    const name = this.name('m')
    const { mode, keeps, options } = this.options(kind)
    const words = kind === 'local' ? [to] : kind === 'plain' ? [host.uri(to)] : [host.target(to), '--secret', host.secret]
    const shown = source.content.follow()
    shown.blur(target.content)
    const { verdict } = await this.do(source.host, ['mirror', 'create', name, source.name, ...words, '--overwrite', ...options], LINK)
    if (!await this.happened(source.host, verdict, ['mirror', 'list'], name)) {
      source.content.unfollow(shown)
      if (kind === 'plain') target.content.blur(shown)
      else await this.#free(target)
      await this.model.read(target)
      return undefined
    }
    const mirror: ModelMirror = { host: source.host, name, kind, mode, source, target, isSplit: false, isPaused: false, shown, isWhole: false, keeps }
    Object.assign(target, { targetOf: mirror, wasTarget: true, origin: undefined })
    this.model.mirrors.add(mirror)
    await this.sync([mirror])
    return mirror
  }

  #pairs(): (readonly [ModelVolume, ModelVolume])[] {
    const [volumes, mirrors] = [[...this.model.volumes], [...this.model.mirrors]]
    const targets = volumes.filter(volume => !mirrors.some(({ source, target }) => source === volume || target === volume))
    return targets.flatMap(target => volumes.filter(source => source !== target && !source.targetOf && source.content.isSized && target.content.isSized
      && source.content.sectors === target.content.sectors && source.grainSectors === target.grainSectors).map(source => [source, target] as const))
  }

  /** What was cut short may have left it to a mirror that is not there. */
  async #free({ host, name }: ModelVolume): Promise<void> {
    for (let attempt = 0; attempt < FORGET_ATTEMPTS; attempt++) {
      const rows = await host.ask('replica', 'list') as { volume: string }[]
      if (!rows.some(({ volume }) => volume === name)) return
      await this.do(host, ['replica', 'promote', name], [3, 4, 5, 6])
      await this.do(host, ['replica', 'forget', name], [3, 4, 5, 6])
      await sleep(300)
    }
    this.model.fail(`${host.name}: ${name} is somebody's replica, and nobody's`)
  }

  /** Of what its clients see, or of what a stream has brought; it stays the same whatever cycles bring. */
  async snapshotOfTarget(): Promise<void> {
    const mirror = this.pick([...this.model.mirrors].filter(one => !one.isSplit && one.isWhole && one.kind !== 'plain'))
    if (!mirror || mirror.target.points.size >= POINTS_MAX) return
    const { target, shown } = mirror
    const name = this.name('s')
    const taken = shown.follow()
    const { verdict, value } = await this.do(target.host, ['snapshot', 'create', target.name, name])
    const isThere = await this.happened(target.host, verdict, ['snapshot', 'list', target.name], name)
    if (isThere) {
      target.points.set(name, { content: taken, isAuto: false, uuid: (value as { uuid: string } | undefined)?.uuid ?? '' })
      await this.model.readPoint(target, name)
    }
    shown.unfollow(taken)
  }

  async cloneOfTarget(): Promise<void> {
    const target = this.pick([...this.model.volumes].filter(({ targetOf, points }) => targetOf && points.size > 0))
    const [name, point] = target ? this.pick([...target.points]) ?? [] : []
    if (!point?.content || !this.hasRoom(target!.host)) return
    const to = this.name('c')
    const { verdict } = await this.do(target!.host, ['snapshot', 'clone', target!.name, name!, to])
    if (!await this.happened(target!.host, verdict, ['volume', 'list'], to)) return
    const clone = this.model.add(target!.host, to, point.content.copy(), target!.grainSectors)
    clone.base = { volume: target!, point: name! }
    await this.model.read(clone)
  }

  /** The source's snapshots that the target says it has, by their uuids. */
  async carried(): Promise<void> {
    const mirror = this.pick([...this.model.mirrors].filter(one => one.keeps && one.isWhole))
    if (!mirror) return
    const { source, target: { host, name: volume } } = mirror
    const points = [...source.points.values()]
    for (const row of await this.names(host, 'snapshot', 'list', volume)) {
      const content = points.find(({ uuid }) => uuid !== '' && uuid === row.labels['snapshot'])?.content
      if (!content) continue
      const found = await readExport(host.server.socketPath, `${volume}@${row.name}`).catch(() => undefined)
      const wrong = found && content.judge(found, false)
      if (wrong) this.model.fail(`${host.name}: ${volume}@${row.name}, carried by ${mirror.name}: ${wrong}`)
    }
  }
}
