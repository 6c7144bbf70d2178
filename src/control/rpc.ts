/**
 * JSON-RPC 2.0, one message per line: what is accepted, what is answered. Pure; no sockets.
 *
 * Requests need an id; a notification from a client is not executed (nobody could learn how it ended). Batches are
 * refused: one connection may have many requests in flight anyway. Our notifications to clients are `progress`.
 * Application errors are `-32000 - exit code`, with `data: { code, exit, hint }` out of the error table.
 */
import { ERRORS, NbdeltaError, asNbdeltaError } from '../device/errors.js'
import type { ErrorCode } from '../device/errors.js'

/** A request: a name, a path, a description and their keys, escaped at worst six-fold, fit well. */
export const REQUEST_BYTES_MAX = 64 * 1024
/** A list of 10,000 volumes at some 600 bytes each is 6 MB. */
export const RESPONSE_BYTES_MAX = 64 * 1024 * 1024

export const RPC = {
  parse: -32700, invalid: -32600, method: -32601, params: -32602, internal: -32603, application: -32000,
} as const

type RpcId = string | number | null
export interface RpcRequest { readonly id: RpcId, readonly method: string, readonly params: Readonly<Record<string, unknown>> }
export interface RpcFault {
  readonly code: number
  readonly message: string
  readonly data: { readonly code: ErrorCode, readonly exit: number, readonly hint: string | null }
}

function fault(code: number, name: ErrorCode, message: string, hint?: string): RpcFault {
  return { code, message, data: { code: name, exit: ERRORS[name].exit, hint: hint ?? null } }
}

/** One line as a request, as a notification to pass over, or as the fault to answer. */
export function decodeRequest(line: string): { request: RpcRequest } | { ignore: true } | { id: RpcId, fault: RpcFault } {
  let message: unknown
  try {
    message = JSON.parse(line)
  } catch {
    return { id: null, fault: fault(RPC.parse, 'bad-argument', 'not JSON: one JSON-RPC 2.0 request per line is expected') }
  }
  if (Array.isArray(message)) {
    return { id: null, fault: fault(RPC.invalid, 'bad-argument', 'batches are not served: send one request per line') }
  }
  if (typeof message !== 'object' || message === null) {
    return { id: null, fault: fault(RPC.invalid, 'bad-argument', 'a request is a JSON object') }
  }
  const { jsonrpc, id, method, params = {} } = message as Record<string, unknown>
  const known = typeof id === 'string' || typeof id === 'number' || id === null
  const answerTo = known ? id : null
  if (jsonrpc !== '2.0' || typeof method !== 'string') {
    return { id: answerTo, fault: fault(RPC.invalid, 'bad-argument', 'a request has jsonrpc "2.0", an id, a method and params') }
  }
  if (id === undefined) return { ignore: true }
  if (!known) return { id: null, fault: fault(RPC.invalid, 'bad-argument', 'an id is a string, a number or null') }
  if (typeof params !== 'object' || params === null || Array.isArray(params)) {
    return { id: answerTo, fault: fault(RPC.params, 'bad-argument', 'params is an object with named values') }
  }
  return { request: { id: answerTo, method, params: params as Record<string, unknown> } }
}

function encode(message: object): string { return `${JSON.stringify({ jsonrpc: '2.0', ...message })}\n` }
export function encodeRequest({ id, method, params }: RpcRequest): string { return encode({ id, method, params }) }
export function encodeResult(id: RpcId, result: unknown): string { return encode({ id, result }) }
export function encodeFault(id: RpcId, error: RpcFault): string { return encode({ id, error }) }
export function encodeNotification(method: string, params: object): string { return encode({ method, params }) }

export function unknownMethod(method: string): RpcFault {
  return fault(RPC.method, 'bad-argument', `there is no method '${method.slice(0, 80)}'`,
    'see docs/cli.md for the commands; noun and verb are joined by a point: volume.list')
}

export function lineTooLong(): RpcFault {
  return fault(RPC.invalid, 'too-large', `a request may have ${REQUEST_BYTES_MAX} bytes`)
}

/** An error as what the peer may see. Anything but a NbdeltaError is a bug here: its text stays in the log. */
export function faultOf(error: unknown): RpcFault {
  if (!(error instanceof NbdeltaError)) {
    const errno = (error as NodeJS.ErrnoException | undefined)?.errno
    if (errno === undefined) return fault(RPC.internal, 'internal', 'a bug in nbdelta: the server\'s log tells more')
    error = asNbdeltaError(error, 'the server')
  }
  const { code, message, hint } = error as NbdeltaError
  return fault(RPC.application - ERRORS[code].exit, code, message, hint)
}

/** What a client got, as the error it stands for. */
export function errorOf(fault: RpcFault): NbdeltaError {
  const code = fault.data?.code in ERRORS ? fault.data.code : 'internal'
  return new NbdeltaError(code, fault.message, { hint: fault.data?.hint ?? undefined })
}
