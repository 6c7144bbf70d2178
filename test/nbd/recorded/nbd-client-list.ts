// Recorded from nbd-client 3.24: -l (see support/recorder.ts), and what must come of it.
import type { Recording } from './recording.js'

export const recording: Recording = {
  client: 'nbd-client 3.24: -l',
  connections: [
    {
      hex: [
        '0000000349484156454f5054000000030000000049484156454f50540000000200000000',
      ],
      outcome: [
        'flags 3',
        'LIST: ACK',
        'ABORT: ACK',
      ],
    },
  ],
}
