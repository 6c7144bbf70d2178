/** The kernels (package export `nbdelta/kernels`): pure functions and values over bytes. No I/O, clock, randomness or state. */
export * from './bytes.js'
export * from './checksum.js'
export * from './grain-bitmap.js'
export * from './integer.js'
export * from './record.js'
