/**
 * The socket as the connection wants it: bytes land in a buffer of ours, replies leave without a stream in between.
 *
 * Node offers the first (`onread`) to sockets it connects, not to sockets it accepts. So the direct way takes the handle
 * out of the accepted socket and builds a new one around it. For the second it writes to the handle's descriptor while
 * the stream has nothing queued: that is 2-3 us less for each batch, a quarter of a request at depth 1.
 *
 * `_handle` and its `fd` are not public API: where they are not as expected, or where the direct way is switched off, the
 * public way copies each 'data' chunk into the same buffer and leaves writing to the stream (1.0-2x slower).
 */
import { writeSync } from 'node:fs'
import { Socket } from 'node:net'

export interface Reader {
  /** Where the next bytes shall land; asked once per read, never empty. */
  space(): Buffer
  /** `count` bytes have landed. False: read no more until `resume`. */
  arrived(count: number): boolean
}

export interface Wire {
  readonly socket: Socket
  /** Bytes land in the reader's buffer without a copy. */
  readonly direct: boolean
  /** What has been received and did not fit the reader's buffer before `arrived` said no. */
  readonly rest: Buffer | undefined
  /** Reading goes on after `arrived` said no. */
  resume(): void
  /**
   * Gives the kernel as much of [start, end) as it takes at once; returns how much that was, 0 when this way is not open.
   * Only while nothing is queued in `socket`.
   */
  writeNow(buffer: Buffer, start: number, end: number): number
}

interface Handle { useUserBuffer?: unknown, fd?: unknown }

/** Takes over a socket accepted with `pauseOnConnect`. Use the returned wire's socket from now on, never `accepted`. */
export function openWire(accepted: Socket, reader: Reader, direct: boolean): Wire {
  const holder = accepted as Socket & { _handle?: Handle | null }
  const handle = holder._handle
  if (direct && handle != null && typeof handle.useUserBuffer === 'function') {
    holder._handle = null
    const socket = wrapHandle(handle, reader)
    // The empty shell must go, or the listener would wait for it for ever.
    accepted.destroy()
    return { socket, direct: true, rest: undefined, resume: () => { socket.resume() }, writeNow: directWriter(handle) }
  }
  return openPublicWire(accepted, reader)
}

function wrapHandle(handle: Handle, reader: Reader): Socket {
  const options = {
    handle,
    allowHalfOpen: true,
    onread: { buffer: () => reader.space(), callback: (count: number) => reader.arrived(count) },
  }
  return new Socket(options as ConstructorParameters<typeof Socket>[0])
}

/** The descriptor is asked for anew each time: it is -1 from the moment the handle closes. */
function directWriter(handle: Handle): Wire['writeNow'] {
  return (buffer, start, end) => {
    const { fd } = handle
    if (typeof fd !== 'number' || fd < 0) return 0
    try {
      return writeSync(fd, buffer, start, end - start)
    } catch {
      // Full (EAGAIN) or broken: either way the stream finds out by itself and says so.
      return 0
    }
  }
}

function openPublicWire(socket: Socket, reader: Reader): Wire {
  let rest: Buffer | undefined
  const take = (chunk: Buffer): void => {
    for (let at = 0; at < chunk.length;) {
      const count = chunk.copy(reader.space(), 0, at)
      at += count
      rest = at < chunk.length ? chunk.subarray(at) : undefined
      if (!reader.arrived(count)) {
        socket.pause()
        return
      }
    }
  }
  socket.on('data', take)
  const resume = (): void => {
    socket.resume()
    if (rest !== undefined) take(rest)
  }
  socket.resume()
  return { socket, direct: false, get rest() { return rest }, resume, writeNow: () => 0 }
}
