/**
 * ChaosFiles: random commands that bring content in and out: images, adopted files, exports of the other host, deltas by files and pipes.
 *
 * Deltas go on from where they were: a volume that came by deltas has an `origin`, the point of the source that it is at, until somebody
 * changes it. A delta that does not fit must be refused, and change nothing.
 */
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { ChaosContent, SECTOR, sectorBytes, newSerial, serialsOf } from './chaos-content.js'
import type { ChaosHost } from './chaos-host.js'
import type { ModelPoint, ModelVolume } from './chaos-model.js'
import { ChaosSteps, type Verdict, VOLUMES_MAX } from './chaos-steps.js'

const STROKES = 20
const STROKE_SECTORS = 64
const JOB_REFUSALS = [4, 5, 6, 130]
const PEER_REFUSALS = [...JOB_REFUSALS, 7, 9]

type Known = [name: string, point: ModelPoint]

export class ChaosFiles extends ChaosSteps {
  empty(sectors: number): ChaosContent { return new ChaosContent(sectors) }

  hasRoom(host: ChaosHost): boolean { return [...this.model.volumes].filter(volume => volume.host === host).length < VOLUMES_MAX }

  /** In no mirror. */
  alone(host?: ChaosHost): ModelVolume | undefined {
    const mirrors = [...this.model.mirrors]
    return this.pick([...this.model.volumes].filter(volume =>
      (!host || volume.host === host) && !mirrors.some(({ source, target }) => source === volume || target === volume)))
  }

  /** Out to a file, and into a new volume from there, or straight from the other host; clients may go on. */
  async transfer(): Promise<void> {
    const volume = this.own()
    const [host, to] = [this.pick(this.hosts), this.name('i')]
    if (!volume || !this.hasRoom(host)) return
    const file = volume.host.file('image')
    const isFile = this.random() < 0.5
    const isCalm = this.random() < 0.6
    if (isCalm) await this.model.stopClients(volume)
    const image = volume.content.follow()
    if (isFile) {
      const out = await this.do(volume.host, ['volume', 'export', volume.name, file, '--overwrite'], JOB_REFUSALS)
      volume.content.unfollow(image)
      if (out.verdict !== 'done') return
      const wrong = (isCalm ? volume.content : image).judge(serialsOf(readFileSync(file)), isCalm)
      if (wrong) this.model.fail(`${volume.host.name}: the image of ${volume.name}: ${wrong}`)
    }
    const { verdict } = await this.do(host, ['volume', 'import', to, isFile ? file : volume.host.uri(volume.name)], PEER_REFUSALS)
    volume.content.unfollow(image)
    if (!await this.happened(host, verdict, ['volume', 'list'], to)) return
    await this.model.read(this.model.add(host, to, isCalm ? volume.content.copy() : image, 4096 / SECTOR))
  }

  /** Of random content; answers what it holds. */
  image(file: string, sectors: number): ChaosContent {
    const image = new ChaosContent(sectors)
    rmSync(file, { force: true })
    writeFileSync(file, '')
    truncateSync(file, sectors * SECTOR)
    const bytes = readFileSync(file)
    for (let count = 0; count < STROKES; count++) {
      const [from, length, serial] = [Math.floor(this.random() * sectors), 1 + Math.floor(this.random() * STROKE_SECTORS), newSerial()]
      const fits = Math.min(length, sectors - from)
      image.put(from, fits, serial)
      sectorBytes(serial, from, fits).copy(bytes, from * SECTOR)
    }
    writeFileSync(file, bytes)
    return image
  }

  /** Over an existing volume, from a file or the other host: after a failure it is a mixture. */
  async overwrite(): Promise<void> {
    const volume = this.alone()
    if (!volume) return
    await this.model.stopClients(volume)
    const { host, content } = volume
    const from = this.random() < 0.5 ? undefined : this.own()
    if (from) await this.model.stopClients(from)
    if (from === volume || (from && from.content.sectors > content.sectors)) return
    const file = host.file('raw')
    const image = from ? from.content.copy() : this.image(file, 1 + Math.floor(this.random() * content.sectors))
    image.resize(content.sectors)
    const { verdict, exit } = await this.do(host, ['volume', 'import', volume.name, from ? from.host.uri(from.name) : file, '--overwrite'], PEER_REFUSALS)
    this.#written(volume, image, verdict, exit)
  }

  #written(volume: ModelVolume, image: ChaosContent, verdict: Verdict, exit: number | null): void {
    if (verdict === 'done') volume.content.become(image)
    else if (verdict === 'unknown' || [6, 7, 9, 130].includes(exit!)) volume.content.blur(image)
  }

  /** Over NBD into a volume that is there: what lies behind the source's end stays. */
  async exportAcross(): Promise<void> {
    const [from, to] = [this.own(), this.alone()]
    if (!from || !to || from === to || from.content.sectors > to.content.sectors) return
    for (const volume of [from, to]) await this.model.stopClients(volume)
    const image = to.content.copy()
    image.become(from.content, 0, from.content.sectors)
    const { verdict, exit } = await this.do(from.host, ['volume', 'export', from.name, to.host.uri(to.name), '--overwrite'], PEER_REFUSALS)
    this.#written(to, image, verdict, exit)
  }

  /** Somebody's file becomes a volume as it is; what it holds when the volume goes is judged then. */
  async adopt(): Promise<void> {
    const host = this.pick(this.hosts)
    if (!this.hasRoom(host)) return
    const name = this.name('b')
    const file = host.file(`${name}.raw`)
    const content = this.image(file, 2048 + Math.floor(this.random() * 2048))
    const grain = this.pick([4096, 16384])
    const { verdict } = await this.do(host, ['volume', 'create', name, '--backing', file, '--grain', String(grain)])
    if (await this.happened(host, verdict, ['volume', 'list'], name)) this.model.add(host, name, content, grain / SECTOR).backing = file
  }

  /** A full delta into a new volume, and an increment behind it. */
  async delta(): Promise<void> {
    const volume = this.own()
    const points = volume ? this.#shippable(volume).filter(([, { content }]) => content!.sectors === volume.content.sectors) : []
    const other = this.pick(this.hosts)
    const [first, second] = [this.pick(points), this.pick(points)]
    if (!first || !second || first === second || !this.hasRoom(other)) return
    const to = this.name('d')
    const made = await this.do(other, ['volume', 'create', to, '--size', String(volume!.content.sectors * SECTOR), '--grain', String(volume!.grainSectors * SECTOR)])
    if (!await this.happened(other, made.verdict, ['volume', 'list'], to)) return
    const copy = this.model.add(other, to, new ChaosContent(volume!.content.sectors), volume!.grainSectors)
    copy.wasTarget = true
    if (await this.#ship(volume!, undefined, first, copy)) await this.#ship(volume!, first[0], second, copy)
  }

  /** The next one, older or newer, into a volume that came by deltas, whoever has changed it since. */
  async deltaOn(): Promise<void> {
    const copy = this.pick([...this.model.volumes].filter(({ origin, targetOf }) => origin && !targetOf))
    if (!copy) return
    const { origin } = copy
    const base = [...origin!.volume.points].find(([, { uuid }]) => uuid === origin!.uuid)
    const to = this.pick(this.#shippable(origin!.volume))
    if (!this.model.volumes.has(origin!.volume) || !base || !to || to === base) return
    await this.model.stopClients(copy)
    const isChanged = copy.content.isCertain && copy.content.differences(origin!.content).length > 0
    if (await this.#ship(origin!.volume, base[0], to, copy) && isChanged) this.model.fail(`${copy.host.name}: a delta has gone over what clients wrote to ${copy.name}`)
  }

  #shippable(volume: ModelVolume): Known[] {
    return [...volume.points].filter(([, { content, isAuto }]) => content?.isCertain && !isAuto)
  }

  /** Answers whether it was applied. */
  async #ship(volume: ModelVolume, from: string | undefined, [name, { content, uuid }]: Known, copy: ModelVolume): Promise<boolean> {
    const words = ['delta', 'export', volume.name, name]
    const options = [...from === undefined ? [] : ['--from', from], ...this.random() < 0.3 ? ['--compress', 'gzip'] : []]
    let verdict: Verdict
    if (this.random() < 0.4) verdict = await this.pipe(volume.host, [...words, '-', ...options], copy.host, ['delta', 'import', copy.name, '-'])
    else {
      const file = volume.host.file('delta')
      if ((await this.do(volume.host, [...words, file, ...options, '--overwrite'], JOB_REFUSALS)).verdict !== 'done') return false
      verdict = (await this.do(copy.host, ['delta', 'import', copy.name, file], JOB_REFUSALS)).verdict
    }
    if (verdict === 'done') {
      copy.content.become(content!)
      copy.origin = uuid === '' ? undefined : { volume, uuid, content: content! }
    } else if (verdict === 'unknown') copy.content.mayBecome(content!)
    if (!copy.targetOf) await this.model.read(copy)
    return verdict === 'done'
  }

  /** Two commands, of which the second reads what the first writes. */
  async pipe(from: ChaosHost, first: readonly string[], to: ChaosHost, second: readonly string[]): Promise<Verdict> {
    const before = [from.outages, to.outages]
    const running = from.pipe(first, to, second)
    await this.killPerhaps(this.pick([from, to]))
    const { exit } = await running
    if (exit === 0) return 'done'
    const isCut = from.outages !== before[0] || to.outages !== before[1]
    if (isCut && exit !== 4) return 'unknown'
    const mayFill = [from, to].some(host => this.model.full.has(host)) && [6, 7, 8].includes(exit!)
    if (!mayFill && !JOB_REFUSALS.includes(exit!)) this.model.fail(`${first.join(' ')} | ${second.join(' ')}: ${exit}`)
    return 'refused'
  }
}
