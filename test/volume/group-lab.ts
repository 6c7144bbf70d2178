/** Volumes on memory disks with points of their own, as members of a group; the group's record is one put for all. */
import { ManualClock, type MemoryDisk } from '../../src/device/testing.js'
import { createGroupPoints } from '../../src/volume/groups.js'
import { freshDisks, LateDisk, openOn } from './lab.js'
import { MemoryPoints } from './point-lab.js'
import type { Clock } from '../../src/device/clock.js'
import type { PointInfo, PointKind } from '../../src/volume/snappoint.js'
import type { Volume } from '../../src/volume/volume.js'

interface MemberLab { readonly uuid: string, readonly name: string, readonly volume: Volume, readonly store: MemoryPoints }

export class GroupLab {
  readonly members: MemberLab[] = []
  /** Set: the group's record fails with it. */
  putError: Error | undefined

  /** @param late requests complete in one of the next turns of the event loop, now and then */
  static async open(count: number, sizeBytes: number, options: { late?: number, clock?: Clock, live?: () => MemoryDisk } = {}): Promise<GroupLab> {
    const lab = new GroupLab()
    const { late, live, clock = new ManualClock() } = options
    for (let index = 0; index < count; index++) {
      const disks = await freshDisks({
        sizeBytes, ...late !== undefined && { live: new LateDisk(sizeBytes, late + index) }, ...live && { live: live() },
      })
      const store = new MemoryPoints()
      const volume = await openOn(disks, sizeBytes, { points: store, clock: clock as ManualClock })
      // Not in the order of their making.
      const uuid = `${String((index * 7919) % 10_000).padStart(8, '0')}-0000-4000-8000-${String(index).padStart(12, '0')}`
      lab.members.push({ uuid, name: `v${index}`, volume, store })
    }
    return lab
  }

  get volumes(): Volume[] { return this.members.map(({ volume }) => volume) }

  snapshot(name: string, kind: PointKind = 'snapshot'): Promise<PointInfo[]> {
    const members = this.members.map(({ uuid, name: volume, volume: { points } }) => ({ uuid, name: volume, points }))
    return createGroupPoints(members, () => ({ name, kind }), async records => {
      await Promise.resolve()
      if (this.putError) throw this.putError
      for (const { volume, record } of records) await this.members.find(({ uuid }) => uuid === volume)!.store.put([record], [])
    })
  }

  async close(): Promise<void> { for (const { volume } of this.members) await volume.close() }
}
