/**
 * The package export `nbdelta/testing`: disks in memory, faults, crash states, a manual clock and the suite
 * every BlockDevice must pass. Nothing here is needed to serve; everything here is how serving is trusted.
 */
export { ManualClock } from './clock.js'
export { countStates, crashStates, type CrashOptions, type CrashState } from './crash.js'
export { DiskArray, RecordingDisk } from './disk-array.js'
export { MemoryDisk, type MemoryDiskOptions } from './memory-disk.js'
export { seededRandom, type Random } from './random.js'
