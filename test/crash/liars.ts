/** Disks that lie, to plant faults below a volume: they look like the recording disk in front of which they stand. */
import type { RecordingDisk } from '../../src/device/testing.js'

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
