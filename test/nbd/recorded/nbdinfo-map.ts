// Recorded from libnbd 1.14.2: nbdinfo --map URI (see support/recorder.ts), and what must come of it.
import type { Recording } from './recording.js'

export const recording: Recording = {
  client: 'libnbd 1.14.2: nbdinfo --map URI',
  connections: [
    {
      hex: [
        '0000000349484156454f5054000000080000000049484156454f50540000000a0000001f000000046469736b000000010000000f62617365',
        '3a616c6c6f636174696f6e49484156454f5054000000070000000c000000046469736b000100032560951300000007000000000000000100',
        '000000000000000010000025609513000000020000000000000002000000000000000000000000',
      ],
      outcome: [
        'flags 3',
        'STRUCTURED_REPLY: ACK',
        'SET_META_CONTEXT: ACK base:allocation',
        'GO disk: ACK 1048576 structured',
        'BLOCK_STATUS 0 1048576: ok',
        'DISC: closed',
      ],
    },
  ],
}
