/**
 * The package export `nbdelta/testing`: disks in memory, faults, crash states, a manual clock and the suite
 * every BlockDevice must pass. Nothing here is needed to serve; everything here is how serving is trusted.
 */
export { ManualClock } from './clock.js'
export { blockDeviceConformance, type ConformanceAssert, type DeviceFactory, type Supports } from './conformance.js'
export { countStates, crashStates, type CrashOptions, type CrashState } from './crash.js'
export { DiskArray, RecordingDisk } from './disk-array.js'
export { type Effect, type Fault, FaultyDisk, type FaultyOperation } from './faulty-disk.js'
export { MemoryDisk, type MemoryDiskOptions } from './memory-disk.js'
export { type ProbeCounts, ProbeDisk, type ProbedOperation } from './probe-disk.js'
export { seededRandom, type Random } from './random.js'
