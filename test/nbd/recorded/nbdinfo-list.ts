// Recorded from libnbd 1.14.2: nbdinfo --list URI (see support/recorder.ts), and what must come of it.
import type { Recording } from './recording.js'

export const recording: Recording = {
  client: 'libnbd 1.14.2: nbdinfo --list URI',
  connections: [
    {
      hex: [
        '0000000349484156454f5054000000080000000049484156454f5054000000030000000049484156454f5054000000060000001000000004',
        '6469736b000300030001000249484156454f5054000000090000000c000000046469736b0000000049484156454f50540000000200000000',
      ],
      outcome: [
        'flags 3',
        'STRUCTURED_REPLY: ACK',
        'LIST: ACK',
        'INFO disk: ACK 1048576',
        'LIST_META_CONTEXT: ACK base:allocation',
        'ABORT: ACK',
      ],
    },
  ],
}
