// Recorded from qemu-img 7.2.22: info URI (see support/recorder.ts), and what must come of it.
import type { Recording } from './recording.js'

export const recording: Recording = {
  client: 'qemu-img 7.2.22: info URI',
  connections: [
    {
      hex: [
        '0000000349484156454f5054000000080000000049484156454f50540000000a0000001f000000046469736b000000010000000f62617365',
        '3a616c6c6f636174696f6e49484156454f5054000000070000000c000000046469736b000100032560951300000000000055d19b9fde1000',
        '000000000000000000020025609513000000020000000000000000000000000000000000000000',
      ],
      outcome: [
        'flags 3',
        'STRUCTURED_REPLY: ACK',
        'SET_META_CONTEXT: ACK base:allocation',
        'GO disk: ACK 1048576 structured',
        'READ 0 512: ok',
        'DISC: closed',
      ],
    },
  ],
}
