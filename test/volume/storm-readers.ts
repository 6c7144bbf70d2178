/**
 * Readers in a storm: whoever has a snapshot open for long and reads it piece by piece, as a delta is exported, with what changed
 * since an older point; and block status, of the volume and of snapshots.
 */
import type { Extents } from '../../src/device/block-device.js'
import { GRAIN } from './lab.js'
import { IN_GRAIN, type Lab, SECTORS, Wrong } from './storm-lab.js'
import { SECTOR, valuesOf } from './storm-model.js'
import type { StormPoints } from './storm-points.js'

/** Of a pause between two pieces. */
const TURNS_MAX = 30

export class StormReaders {
  readonly #lab: Lab
  readonly #points: StormPoints

  constructor(lab: Lab, points: StormPoints) {
    this.#lab = lab
    this.#points = points
  }

  /** What is said to be zeros is. @param end bytes */
  status(end: number): void {
    const lab = this.#lab
    lab.fly('block status', () => {
      const allowed = lab.model.allowed()
      judgeZeros('block status', lab.volume.extents(0, end, SECTORS) as Extents, sector => allowed[sector].has(0))
    }, () => undefined)
  }

  statusOfOne(): void {
    const lab = this.#lab
    const name = this.#points.some(['snapshot'])
    if (name === undefined) return
    lab.fly(`block status of ${name}`, async () => {
      const device = lab.volume.points.open(name)
      const allowed = this.#points.allowedOf(name)
      judgeZeros(`block status of ${name}`, device.extents(0, device.sizeBytes, SECTORS) as Extents, sector => allowed[sector].has(0))
      await device.close()
    }, () => undefined)
  }

  follow(): void {
    const name = this.#points.some(['snapshot'])
    const since = this.#points.some(['snapshot', 'bookmark'])
    if (name !== undefined) this.#lab.fly(`follow ${name} since ${since}`, () => this.#follow(name, since!), () => undefined)
  }

  async #follow(name: string, since: string): Promise<void> {
    const lab = this.#lab
    const { points } = lab.volume
    const isMine = lab.lives()
    const device = points.open(name)
    try {
      const base = points.get(since)
      const before = base && base.seq < device.point.seq ? this.#points.allowedOf(since) : undefined
      const early = before && [...device.changedRuns(since)]
      const into = Buffer.alloc(device.sizeBytes)
      for (let at = 0; at < into.length;) {
        const length = Math.min(into.length - at, SECTOR * (1 + lab.random(3 * IN_GRAIN)))
        const run = device.zeroRun(at, length)
        if (run > 0) await device.read(at, run, into, at)
        at += Math.abs(run)
        await new Promise<void>(resolve => { lab.machine.at(1 + lab.random(TURNS_MAX), resolve) })
        if (!isMine()) return
      }
      const values = valuesOf(into, SECTORS)
      this.#points.saw(name, values)
      if (!before) return
      this.#points.judgeRuns(`followed, from ${since} to ${name}`, early!, before, values)
      if (points.get(since)?.uuid !== base!.uuid) return lab.count('followed: the older point has gone')
      this.#points.judgeRuns(`followed to the end, from ${since} to ${name}`, [...device.changedRuns(since)], before, values)
      lab.count('followed')
    } finally {
      await device.close()
    }
  }
}

/** @param mayBeZero of a sector */
function judgeZeros(
  what: string, { lengths, states }: Extents, mayBeZero: (sector: number) => boolean,
): void {
  for (let i = 0, sector = 0; i < lengths.length; i++) {
    for (const end = sector + lengths[i] / SECTOR; sector < end; sector++) {
      if (states[i] !== 0 && !mayBeZero(sector)) throw new Wrong(`${what}: sector ${sector} of grain ${Math.floor(sector * SECTOR / GRAIN)} is said to be zeros`)
    }
  }
}
