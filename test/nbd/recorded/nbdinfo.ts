// Recorded from libnbd 1.14.2: nbdinfo URI (see support/recorder.ts), and what must come of it.
import type { Recording } from './recording.js'

export const recording: Recording = {
  client: 'libnbd 1.14.2: nbdinfo URI',
  connections: [
    {
      hex: [
        '0000000349484156454f5054000000080000000049484156454f50540000000600000010000000046469736b000300030001000249484156',
        '454f5054000000090000000c000000046469736b0000000049484156454f50540000000700000010000000046469736b0003000300010002',
        '2560951300000000000000000000000100000000000000000000200025609513000000020000000000000002000000000000000000000000',
      ],
      outcome: [
        'flags 3',
        'STRUCTURED_REPLY: ACK',
        'INFO disk: ACK 1048576',
        'LIST_META_CONTEXT: ACK base:allocation',
        'GO disk: ACK 1048576 structured',
        'READ 0 8192: ok',
        'DISC: closed',
      ],
    },
  ],
}
