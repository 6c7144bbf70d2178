/**
 * What an NBD client is opened with, judged in one place into a frozen value. Every wait has a limit here and every limit
 * is a number one may set: no request can hang, no queue can grow without bound (DESIGN S7).
 */
import { randomInt } from 'node:crypto'
import { MAX_STRING_BYTES } from '../../native-free/nbd/constants.js'
import type { ReplyStyle } from '../../native-free/nbd/transmission.js'
import { systemClock, type Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import { silentLogger, type Logger } from '../device/logger.js'
import type { Random } from '../device/random.js'
import type { BoundAddress } from './listener.js'
import { nbdUri, parseNbdUri } from './uri.js'

const MIB = 2 ** 20
const CONNECTIONS_MAX = 16

export interface ReconnectPolicy {
  /** Attempts in a row that bring no answered request; then the device has failed for good. 0: never reconnect. */
  readonly attempts: number
  /** The same as a time, milliseconds. */
  readonly limitMs: number
  /** Pause before the first attempt, doubled each time up to `toMs`; half of it is left to chance. */
  readonly fromMs: number
  readonly toMs: number
  /**
   * When the policy is spent requests fail at once, but attempts go on, and whoever answers again is taken back. Default false:
   * the device has failed for good.
   */
  readonly persist: boolean
}

export interface NbdClientOptions {
  /** `nbd://...` or `nbd+unix://...` (section 16); else `address`, and `exportName` unless it is the default export. */
  readonly uri?: string
  readonly address?: BoundAddress
  readonly exportName?: string
  /** Sockets to open, 1 (default) to 16; one only if the peer does not promise MULTI_CONN (D3). */
  readonly connections?: number
  /** Deadline of connecting and negotiating together; default 10,000 ms. */
  readonly connectMs?: number
  /** Deadline of each request from being sent to its whole reply; missed, the connection is dropped. Default 30,000 ms. */
  readonly requestMs?: number
  /** Default: any number of attempts for 60,000 ms, pauses from 100 to 10,000 ms. */
  readonly reconnect?: Partial<ReconnectPolicy>
  /**
   * Send write-class requests again that were in flight when a connection died. Only for peers that let nothing of a dead
   * connection run after it was replaced (PROTOCOL D5, SEEDS X9), as nbdelta does. Default false: they fail instead.
   */
  readonly resendWrites?: boolean
  /** Payload bytes of all requests in flight; others wait for room. Default 16 MiB: at 600 KB/s all are answered in time. */
  readonly inFlightBytes?: number
  /** Refuse to write, whatever the peer allows. */
  readonly readOnly?: boolean
  /** The best reply style to ask for; default `extended`. */
  readonly replyStyle?: ReplyStyle
  readonly logger?: Logger
  readonly clock?: Clock
  /** For the jitter of pauses. */
  readonly random?: Random
}

export interface ClientSettings extends Required<Omit<NbdClientOptions, 'uri' | 'reconnect'>> {
  readonly reconnect: ReconnectPolicy
  /** The URI, for logs and errors. */
  readonly name: string
}

const DEFAULTS = {
  exportName: '', connections: 1, connectMs: 10_000, requestMs: 30_000, resendWrites: false, inFlightBytes: 16 * MIB,
  readOnly: false, replyStyle: 'extended', logger: silentLogger, clock: systemClock, random: randomInt as Random,
} as const
const RECONNECT: ReconnectPolicy = {
  attempts: Number.MAX_SAFE_INTEGER, limitMs: 60_000, fromMs: 100, toMs: 10_000, persist: false,
}
const KNOWN = new Set([...Object.keys(DEFAULTS), 'uri', 'address', 'reconnect'])

/** The settings to run with. Refuses with `bad-argument`. */
export function resolveClientOptions(options: NbdClientOptions): ClientSettings {
  for (const key of Object.keys(options)) if (!KNOWN.has(key)) throw refusal(`there is no option ${key}`)
  const { uri, address, reconnect, ...rest } = options
  if ((uri === undefined) === (address === undefined)) throw refusal('give either a uri or an address')
  if (uri !== undefined && options.exportName !== undefined) throw refusal('the export is named in the uri already')
  const target = uri === undefined ? { address: address!, exportName: options.exportName ?? '' } : parseNbdUri(uri)
  if (target.exportName.includes('\0') || Buffer.byteLength(target.exportName) > MAX_STRING_BYTES) {
    throw refusal(`an export name has at most ${MAX_STRING_BYTES} bytes and no NUL`)
  }
  const settings: ClientSettings = {
    ...DEFAULTS, ...rest, ...target, reconnect: { ...RECONNECT, ...reconnect }, name: nbdUri(target.address, target.exportName),
  }
  judgeNumbers(settings)
  if (!['simple', 'structured', 'extended'].includes(settings.replyStyle)) throw refusal('no such replyStyle')
  return Object.freeze(settings)
}

function judgeNumbers(settings: ClientSettings): void {
  const { connections, connectMs, requestMs, inFlightBytes, reconnect } = settings
  const { attempts, limitMs, fromMs, toMs } = reconnect
  for (const [name, value] of Object.entries({ connections, connectMs, requestMs, inFlightBytes, limitMs, fromMs, toMs })) {
    if (!Number.isSafeInteger(value) || value < 1) throw refusal(`${name} must be a positive integer, not ${value}`)
  }
  if (!Number.isSafeInteger(attempts) || attempts < 0) throw refusal(`attempts must be 0 or more, not ${attempts}`)
  if (connections > CONNECTIONS_MAX) throw refusal(`connections must be at most ${CONNECTIONS_MAX}, not ${connections}`)
  if (fromMs > toMs) throw refusal('fromMs must not be larger than toMs')
}

function refusal(why: string): NbdeltaError { return new NbdeltaError('bad-argument', `NBD client: ${why}`) }
