// Recorded from qemu-img 7.2.22: map --output=json (see support/recorder.ts), and what must come of it.
import type { Recording } from './recording.js'

export const recording: Recording = {
  client: 'qemu-img 7.2.22: map --output=json',
  connections: [
    {
      hex: [
        '0000000349484156454f5054000000080000000049484156454f50540000000a0000001f000000046469736b000000010000000f62617365',
        '3a616c6c6f636174696f6e49484156454f5054000000070000000c000000046469736b000100032560951300080007000055a4f9ce99d000',
        '00000000000000001000002560951300080007000055a4f9ce99d00000000000020000000e00002560951300080007000055a4f9ce99d000',
        '00000000080000000800002560951300080007000055a4f9ce99d000000000000810000007f0002560951300000002000000000000000000',
        '0000000000000000000000',
      ],
      outcome: [
        'flags 3',
        'STRUCTURED_REPLY: ACK',
        'SET_META_CONTEXT: ACK base:allocation',
        'GO disk: ACK 1048576 structured',
        'BLOCK_STATUS flags 8 0 1048576: ok',
        'BLOCK_STATUS flags 8 131072 917504: ok',
        'BLOCK_STATUS flags 8 524288 524288: ok',
        'BLOCK_STATUS flags 8 528384 520192: ok',
        'DISC: closed',
      ],
    },
  ],
}
