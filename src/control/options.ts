/**
 * Parameter kinds of the command table: how each is judged, and what is said when it is not acceptable.
 *
 * Pure. The command line and the server judge with the same functions, so that a value is accepted by both or by
 * neither; the server judges again because its socket is open to other programs than our command line.
 * Sizes are Numbers below 2^53 (8 PiB - 1) and exact: what cannot be had to the byte is refused, not rounded.
 */
import { count } from '../device/count.js'
import { NbdeltaError } from '../device/errors.js'
import { isUri } from '../device/uri.js'

export { count, isUri }

type ParameterType = 'size' | 'rate' | 'duration' | 'string' | 'name' | 'int' | 'bool' | 'enum' | 'address' | 'creation' | 'label'
  | 'path' | 'image' | 'stream'

export interface Parameter {
  /** As typed, in kebab case; the wire name is its camel case. */
  readonly name: string
  readonly type: ParameterType
  readonly help: string
  /** What stands for the value in help: `SIZE`, `PATH`. */
  readonly value?: string
  readonly required?: boolean
  readonly default?: string | number | boolean
  readonly choices?: readonly string[]
  /** May be given several times; the value is then an array. */
  readonly repeat?: boolean
  readonly short?: string
  readonly minimum?: number
  readonly maximum?: number
  readonly powerOfTwo?: boolean
  /** Concerns the command line alone and is not sent. */
  readonly local?: boolean
  /** What a shell may offer as completion. */
  readonly complete?: 'volume' | 'point' | 'group' | 'mirror' | 'job' | 'client' | 'file' | 'directory'
}

/** What the catalog allows a volume's name (src/store/catalog.ts), within the 256 bytes of PROTOCOL H5 for an export's. */
const NAME_BYTES_MAX = 128
/** PATH_MAX of Linux, the closing NUL not counted. */
const PATH_BYTES_MAX = 4095
/** sun_path of Linux holds 108 bytes with its closing NUL. */
const SOCKET_PATH_BYTES_MAX = 107
/** Free text, a description for example. */
const TEXT_BYTES_MAX = 1024

/**
 * Powers of 1024, as qemu, nbdkit and dd have them; `KiB` and `k` are the same. Decimal units are refused: too easily meant
 * otherwise.
 */
const UNITS = ['', 'K', 'M', 'G', 'T', 'P']
const SIZE_HELP =
  'a size is a number of bytes, or a number with k, M, G, T or KiB, MiB, GiB, TiB (powers of 1024): 1GiB, 1.5GiB, 512M, 4096'

function refuse(message: string, hint?: string): never {
  throw new NbdeltaError('bad-argument', message, { hint })
}

/**
 * A size in bytes out of text such as `1GiB`, `1.5G`, `4096`.
 * @throws NbdeltaError bad-argument: not a size, not a whole number of bytes, or 2^53 and more
 */
export function parseSize(text: string): number {
  const match = /^(\d{1,20})(?:\.(\d{1,20}))?\s*(?:([kmgtp])(ib)?|b|(([kmgtp])b))?$/i.exec(text.trim())
  if (!match) refuse(`'${shorten(text)}' is not a size`, SIZE_HELP)
  const [, whole, fraction = '', unit = '', , decimal] = match
  if (decimal) refuse(`'${text}': decimal units are not accepted, write ${decimal[0]!.toUpperCase()}iB`, SIZE_HELP)
  const scale = 1024n ** BigInt(UNITS.indexOf(unit.toUpperCase()))
  const divisor = 10n ** BigInt(fraction.length)
  const scaled = BigInt(whole + fraction) * scale
  if (scaled % divisor !== 0n) refuse(`'${text}' is not a whole number of bytes`, SIZE_HELP)
  const bytes = scaled / divisor
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) refuse(`'${shorten(text)}' is too large: sizes end below 8 PiB`, SIZE_HELP)
  return Number(bytes)
}

/** `1 GiB`, `1.5 GiB`, `812 bytes`: the largest unit that keeps at least one before the point, two digits behind it. */
export function formatSize(bytes: number): string {
  let unit = 0
  let value = bytes
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit++ }
  if (unit === 0) return count(bytes, 'byte')
  const rounded = Math.round(value * 100) / 100
  // 1023.999 MiB must not read as "1024 MiB".
  if (rounded >= 1024 && unit < UNITS.length - 1) return `1 ${UNITS[unit + 1]}iB`
  return `${rounded} ${UNITS[unit]}iB`
}

/** A size that parses back to exactly `bytes`; for defaults in help and for examples. */
export function exactSize(bytes: number): string {
  let unit = 0
  let value = bytes
  while (value > 0 && value % 1024 === 0 && unit < UNITS.length - 1) { value /= 1024; unit++ }
  return unit === 0 ? String(value) : `${value}${UNITS[unit]}iB`
}

/** Text for a message: the middle of something long is left out, control characters are shown as `?`. */
export function shorten(text: string, limit = 80): string {
  // eslint-disable-next-line no-control-regex
  const clean = text.replace(/[\u0000-\u001f\u007f]/g, '?')
  return clean.length <= limit ? clean : `${clean.slice(0, limit - 20)}...${clean.slice(-17)}`
}

/** Where an NBD server listens. */
export type Address = { readonly path: string } | { readonly host: string, readonly port: number }
const NBD_PORT = 10809
const ADDRESS_HELP =
  'an address is unix:PATH, tcp:HOST:PORT, tcp:HOST or tcp::PORT; an IPv6 host stands in brackets: tcp:[::1]:10809'

/**
 * `unix:PATH`, `tcp:HOST[:PORT]`, `tcp:[IPV6]:PORT`, `tcp::PORT` (all interfaces).
 * @throws NbdeltaError bad-argument
 */
export function parseAddress(text: string): Address {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length)
    judgeSocketPath(path)
    return { path }
  }
  const match = /^tcp:(\[[0-9a-fA-F:.%\w]+\]|[^:[\]\s]*)(?::(\d{1,5}))?$/.exec(text)
  if (!match) refuse(`'${shorten(text)}' is not an address`, ADDRESS_HELP)
  const host = match[1]!.replace(/^\[|\]$/g, '')
  const port = match[2] === undefined ? NBD_PORT : Number(match[2])
  if (port > 65535) refuse(`port ${match[2]} is above 65535`, ADDRESS_HELP)
  if (host === '' && match[2] === undefined) refuse(`'${text}' names neither host nor port`, ADDRESS_HELP)
  return { host: host || '::', port }
}

/** A unix socket's path must fit the kernel's sockaddr; more would be cut off in silence. */
export function judgeSocketPath(path: string): void {
  judgePath(path)
  const bytes = Buffer.byteLength(path)
  if (bytes > SOCKET_PATH_BYTES_MAX) {
    refuse(`the socket path ${shorten(path)} has ${bytes} bytes, the system allows ${SOCKET_PATH_BYTES_MAX}`,
      'choose a shorter path, /run/nbdelta.sock for example')
  }
}

function judgePath(text: string): void {
  if (text === '') refuse('a path may not be empty')
  if (text.includes('\0')) refuse('a path may not hold a NUL character')
  if (Buffer.byteLength(text) > PATH_BYTES_MAX) {
    refuse(`a path of ${Buffer.byteLength(text)} bytes is longer than ${PATH_BYTES_MAX}`)
  }
}

function judgeName(text: string): void {
  if (text === '') refuse('a name may not be empty')
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f]/.test(text)) refuse(`the name '${shorten(text)}' holds a control character`)
  if (Buffer.byteLength(text) > NAME_BYTES_MAX) {
    refuse(`a name of ${Buffer.byteLength(text)} bytes is longer than ${NAME_BYTES_MAX}`)
  }
}

/** `NAME=SIZE`, of `serve --create-volume`. */
export function parseCreation(text: string): { name: string, sizeBytes: number } {
  const at = text.lastIndexOf('=')
  if (at < 1) refuse(`'${shorten(text)}' is not NAME=SIZE`, 'write --create-volume disk=1GiB')
  const name = text.slice(0, at)
  judgeName(name)
  return { name, sizeBytes: parseSize(text.slice(at + 1)) }
}

function parseInteger(text: string): number {
  if (!/^-?\d{1,15}$/.test(text)) refuse(`'${shorten(text)}' is not a whole number`)
  return Number(text)
}

const SECONDS = { s: 1, m: 60, h: 3600, d: 86_400, w: 7 * 86_400 } as const
/** Ten years: longer is a mistake, not a duration. */
const DURATION_SECONDS_MAX = 10 * 366 * SECONDS.d

/** Seconds out of text such as `90`, `90s`, `15m`, `12h`, `7d`, `2w`. */
function parseDuration(text: string): number {
  const match = /^(\d{1,9})\s*([smhdw])?$/i.exec(text.trim())
  const seconds = match ? Number(match[1]) * SECONDS[(match[2]?.toLowerCase() ?? 's') as keyof typeof SECONDS] : NaN
  if (seconds >= 1 && seconds <= DURATION_SECONDS_MAX) return seconds
  refuse(`'${shorten(text)}' is not a duration`,
    'a duration is a number of seconds, or a number with s, m, h, d or w, ten years at most: 90s, 12h, 7d')
}

/** `KEY=VALUE`. What may stand in them is the store's to say. */
export function parseLabel(text: string): [key: string, value: string] {
  const at = text.indexOf('=')
  if (at < 1) refuse(`'${shorten(text)}' is not KEY=VALUE`, 'write --label purpose=backup')
  return [text.slice(0, at), text.slice(at + 1)]
}

/** A file's path, or `unix:PATH` for a socket that the asking command line listens on. */
export const STREAM_SOCKET = 'unix:'
function judgeStream(text: string): void {
  if (text.startsWith(STREAM_SOCKET)) judgeSocketPath(text.slice(STREAM_SOCKET.length))
  else judgePath(text)
}

/** How the user calls it in messages: `--size` or `NAME`. */
export function label(parameter: Parameter): string {
  return parameter.value && parameter.required && !parameter.name.includes('-')
    && parameter.value === parameter.name.toUpperCase()
    ? parameter.value : `--${parameter.name}`
}

function judgeRange(parameter: Parameter, value: number): number {
  const show = (bound: number): string => parameter.type === 'int' ? String(bound) : exactSize(bound)
  const { minimum = 0, maximum = Number.MAX_SAFE_INTEGER } = parameter
  if (value < minimum) refuse(`${label(parameter)} ${show(value)} is too small`, `at least ${show(minimum)}`)
  if (value > maximum) refuse(`${label(parameter)} ${show(value)} is too large`, `at most ${show(maximum)}`)
  if (parameter.powerOfTwo && 2 ** Math.round(Math.log2(value)) !== value) {
    refuse(`${label(parameter)} ${show(value)} is not a power of two`)
  }
  return value
}

function judgeText(parameter: Parameter, text: string): void {
  if (Buffer.byteLength(text) > TEXT_BYTES_MAX) refuse(`${label(parameter)} is longer than ${TEXT_BYTES_MAX} bytes`)
}

/**
 * One value as typed, judged: what it means. Sizes, rates, durations and integers become Numbers, the rest stays text
 * (addresses, creations and labels are judged here and parsed again by who uses them).
 * @throws NbdeltaError bad-argument
 */
export function judge(parameter: Parameter, text: string): string | number {
  switch (parameter.type) {
    case 'size': return judgeRange(parameter, parseSize(text))
    case 'rate': return judgeRange(parameter, parseSize(text.replace(/\/s$/, '')))
    case 'duration': return parseDuration(text)
    case 'label': parseLabel(text); judgeText(parameter, text); return text
    case 'stream': judgeStream(text); return text
    case 'int': return judgeRange(parameter, parseInteger(text))
    case 'name': judgeName(text); return text
    case 'path': case 'image': judgePath(text); return text
    case 'address': parseAddress(text); return text
    case 'creation': parseCreation(text); return text
    case 'enum':
      if (!parameter.choices!.includes(text)) {
        refuse(`${label(parameter)} '${shorten(text)}' is unknown`, `one of ${parameter.choices!.join(', ')}`)
      }
      return text
    case 'string': judgeText(parameter, text); return text
    case 'bool': throw new Error(`${parameter.name}: a flag has no text`)
  }
}

/** `if-not-exists` -> `ifNotExists`. */
export function wireName(name: string): string {
  return name.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase())
}
