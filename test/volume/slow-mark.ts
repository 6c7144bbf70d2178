/**
 * A program: a volume is opened on what a killed process has staged, and written to while the mark of that is on its way to a slow
 * disk. Prints the first bytes then. A process of its own, since what must not happen is that it waits without letting the disk answer.
 */
import type { Pending } from '../../src/device/block-device.js'
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import { freshDisks, GRAIN, killed, openOn, readAll } from './lab.js'
import { StagedPoints } from './point-lab.js'

const SIZE = 4 * GRAIN
const FLUSH_MS = 5

class SlowDisk extends MemoryDisk {
  /** Called when a flush begins. */
  whenFlushed: () => void = () => undefined

  override flush(): Pending {
    this.whenFlushed()
    return new Promise<void>(resolve => { setTimeout(resolve, FLUSH_MS) }).then(() => super.flush())
  }
}

const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
const points = new StagedPoints(new MemoryDisk(2 ** 20))
const volume = await openOn(disks, SIZE, { points, clock: new ManualClock() })
await volume.points.create({ name: 's', kind: 'snapshot' })
await volume.write(0, 2 * GRAIN, Buffer.alloc(2 * GRAIN, 1), 0)

const left = points.fork()
const log = new SlowDisk(left.log.sizeBytes)
const content = Buffer.alloc(log.sizeBytes)
await left.log.read(0, content.length, content, 0)
MemoryDisk.prototype.write.call(log, 0, content.length, content, 0)
const again = await openOn(killed(disks), SIZE, { points: Object.assign(new StagedPoints(log), left, { log }), clock: new ManualClock() })
const written: Promise<void>[] = []
const write = async (i: number): Promise<void> => { await again.write(i % 2 * GRAIN, 100, Buffer.alloc(100, 2 + i), 0) }
log.whenFlushed = () => { written.push(write(written.length)) }
await new Promise(resolve => { setTimeout(resolve, 20 * FLUSH_MS) })
log.whenFlushed = () => undefined
await Promise.all(written)
const found = await readAll(again)
console.log(written.length, [0, 100, GRAIN, 2 * GRAIN].map(at => found[at]).join(' '))
