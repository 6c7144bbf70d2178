/** The NBD codec as one import: numbers, handshake, transmission. */
export * from './constants.js'
export * from './handshake.js'
export * from './transmission.js'
