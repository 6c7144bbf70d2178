/** Disks to stand in front of the recording ones, below a volume: some lie, to plant faults, one is only slow. */
import type { Random, RecordingDisk } from '../../src/device/testing.js'

/** Everything passes but what `lies` replaces. */
function liar(disk: RecordingDisk, lies: Partial<RecordingDisk>): RecordingDisk {
  return new Proxy(disk, {
    get(target, key) {
      const value: unknown = Reflect.get(lies, key) ?? Reflect.get(target, key)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** Says flushed at once and flushes nothing. */
export function unflushed(disk: RecordingDisk): RecordingDisk {
  return liar(disk, { flush: () => undefined })
}

/** Says that space was given back and leaves the bytes where they are. */
export function silentPunch(disk: RecordingDisk): RecordingDisk {
  return liar(disk, { punch: async () => ({ punched: true }) })
}

/** Tells of writes and flushes some turns of the event loop after they are done: others get between any two steps. */
export function slow(disk: RecordingDisk, random: Random): RecordingDisk {
  const later = async (): Promise<void> => {
    for (let turns = random(4); turns > 0; turns--) await new Promise(resolve => { setImmediate(resolve) })
  }
  return liar(disk, {
    write: (...request) => Promise.resolve(disk.write(...request)).then(later),
    flush: () => Promise.resolve(disk.flush()).then(later),
  })
}
