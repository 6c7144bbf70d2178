/**
 * Options of the public API, judged in one place into frozen values: unknown keys are refused, defaults filled in.
 * What a name, a size or a grain may be is the catalog's to say (store/catalog.ts).
 */
import { z } from 'zod'
import { divCeil } from '../../native-free/integer.js'
import { NbdeltaError } from '../device/errors.js'
import type { Clock } from '../device/clock.js'
import type { Logger } from '../device/logger.js'
import { judgeShape } from '../store/catalog.js'
import type { OpenBacking } from '../store/remote-live.js'

const GRAIN_BYTES_DEFAULT = 4096

/** Anything that has the methods; their behaviour is the caller's matter. */
function having<T>(methods: readonly string[], what: string): z.ZodType<T> {
  const fits = (value: unknown): value is T => typeof value === 'object' && value !== null &&
    methods.every(method => typeof (value as Record<string, unknown>)[method] === 'function')
  return z.custom<T>(fits, `is not ${what}`)
}

const OPEN_STORE = z.strictObject({
  path: z.string().min(1, 'may not be empty'),
  create: z.boolean().default(false),
  beforeCreate: z.custom<() => Promise<void>>(value => typeof value === 'function', 'is not a function').optional(),
  logger: having<Logger>(['debug', 'info', 'warn', 'error'], 'a logger').optional(),
  clock: having<Clock>(['now', 'wallTime', 'setTimeout'], 'a clock').optional(),
  openBacking: z.custom<OpenBacking>(value => typeof value === 'function', 'is not a function').optional(),
})

const CREATE_VOLUME = z.strictObject({
  name: z.string(),
  sizeBytes: z.number().optional(),
  grainBytes: z.number().default(GRAIN_BYTES_DEFAULT),
  backing: z.string().min(1, 'may not be empty').nullish().transform(path => path ?? null),
  description: z.string().default(''),
})

const CLONE_VOLUME = z.strictObject({
  name: z.string(),
  from: z.strictObject({ volume: z.string(), point: z.string() }),
  description: z.string().default(''),
})

export type CloneVolumeInput = z.input<typeof CLONE_VOLUME>
export type CloneVolumeOptions = z.output<typeof CLONE_VOLUME>

export type OpenStoreOptions = z.input<typeof OPEN_STORE>
export type CreateVolumeInput = z.input<typeof CREATE_VOLUME>
export type CreateVolumeOptions = z.output<typeof CREATE_VOLUME>

export const judgeOpenStore = (options: unknown): z.output<typeof OPEN_STORE> => judged(OPEN_STORE, options, 'openStore')
export const judgeCloneVolume = (options: unknown): CloneVolumeOptions => judged(CLONE_VOLUME, options, 'cloneVolume')
export const judgeCreateVolume = (options: unknown): CreateVolumeOptions => judged(CREATE_VOLUME, options, 'createVolume')

function judged<T extends z.ZodType>(schema: T, options: unknown, call: string): z.output<T> {
  const result = schema.safeParse(options)
  if (result.success) return Object.freeze(result.data) as z.output<T>
  const { path, message } = result.error.issues[0]
  throw new NbdeltaError('bad-argument', `${call}: ${[path.join('.'), message].filter(Boolean).join(' ')}`)
}

/** 2^32 = 16 TiB at 4 KiB: the map takes 1.3 MiB when uniform and 512 MiB at worst. Larger volumes take larger grains. */
const GRAINS_MAX = 2 ** 32

/** Errors: too-large. */
export function judgeGrains(sizeBytes: number, grainBytes: number): void {
  if (divCeil(sizeBytes, grainBytes) <= GRAINS_MAX) return
  const hint = 'choose a larger grain'
  throw new NbdeltaError('too-large', `${sizeBytes} bytes are more than ${GRAINS_MAX} grains of ${grainBytes}`, { hint })
}

/** Throws what `createVolume` would in any store, before there is one. Errors: bad-argument, too-large. */
export function judgeNewVolume(
  { name, sizeBytes, grainBytes = GRAIN_BYTES_DEFAULT }: { name: string, sizeBytes: number, grainBytes?: number },
): void {
  judgeShape({ name, sizeBytes, grainBytes })
  judgeGrains(sizeBytes, grainBytes)
}
