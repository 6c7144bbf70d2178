/** The NBD codec as one import: numbers, handshake, transmission, and the client's half of both. */
export * from './constants.js'
export * from './handshake.js'
export * from './transmission.js'
export * from './client-handshake.js'
export * from './client-transmission.js'
