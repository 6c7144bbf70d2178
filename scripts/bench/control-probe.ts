/** Asks the control socket for `status` again and again and keeps the longest wait: JSON-RPC 2.0, a line each way. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

/** Longest wait in milliseconds over `seconds`, asking every `everyMs`. */
export async function longestWait(controlPath: string, seconds: number, everyMs = 20): Promise<number> {
  const socket = connect({ path: controlPath })
  await once(socket, 'connect')
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]()
  let longest = 0
  try {
    for (let id = 1, until = performance.now() + seconds * 1000; performance.now() < until; id++) {
      const begin = performance.now()
      socket.write(`${JSON.stringify({ jsonrpc: '2.0', id, method: 'status', params: {} })}\n`)
      const answer = await lines.next() as IteratorResult<string>
      const good = !answer.done && (JSON.parse(answer.value) as { result?: unknown }).result
      if (!good) throw new Error(`control socket: ${answer.value}`)
      longest = Math.max(longest, performance.now() - begin)
      await sleep(everyMs)
    }
  } finally { socket.destroy() }
  return longest
}
