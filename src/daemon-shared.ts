/** What the parts of the daemon's admin share: how they get at volumes, and small words. */
import { NbdeltaError } from './index.js'
import type { VolumeRow } from './control/admin.js'
import type { PointInfo, Store, StoreVolume } from './index.js'

/** One volume on a stuck disk must not keep the others from being listed. */
export const FACTS_MS = 1000

export interface Access {
  readonly store: Store
  /** Errors: not-found. */
  get(name: string): StoreVolume
  show(name: string): Promise<VolumeRow>
  /** Throws busy while clients are attached. */
  assertUnattached(name: string, doing: string): void
  /** Throws wrong-state if the volume belongs to a mirror whose target it is. */
  assertOwn(name: string, doing: string): void
  /** Throws busy if it is one, and holds what is no whole point of its source. */
  assertWhole(name: string): void
  /** Runs `work` while no new client can attach. */
  closedToNew<T>(name: string, work: () => Promise<T>): Promise<T>
}

export async function within<T>(limitMs: number, work: Promise<T>, otherwise: T): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<T>(resolve => { timer = setTimeout(resolve, limitMs, otherwise) })
  try { return await Promise.race([work, late]) } finally { clearTimeout(timer) }
}

export function noVolume(name: string): NbdeltaError {
  return new NbdeltaError('not-found', `there is no volume ${name}`, { hint: 'see: nbdelta volume list' })
}

/** The volume if it can be used. Errors: not-found, and why it cannot be opened. */
export function usable({ get }: { get(name: string): StoreVolume | undefined }, name: string): StoreVolume {
  const volume = get(name)
  if (!volume) throw noVolume(name)
  if (volume.problem) throw volume.problem
  return volume
}

/** Errors: not-found, with where to look. */
export function pointOf(volume: StoreVolume, name: string) {
  const point = volume.points.get(name)
  if (point) return point
  throw new NbdeltaError('not-found', `volume ${volume.name} has no snapshot or bookmark ${name}`,
    { hint: `see: nbdelta snapshot list ${volume.name}` })
}

/** Pins of a volume's points by owners whose names begin so. */
export function pinnedBy({ points }: StoreVolume, owners: string): { readonly point: PointInfo, readonly owner: string }[] {
  const pins = points.list().flatMap(point => point.pins.map(({ owner }) => ({ point, owner })))
  return pins.filter(({ owner }) => owner.startsWith(owners))
}

/** The error, with what it has left behind. */
export function leaving(error: NbdeltaError, left: string, hint: string): NbdeltaError {
  return new NbdeltaError(error.code, `${error.message}; ${left}`, { left, hint, cause: error })
}

/** `auto` says what the server made. Errors: bad-argument. */
export function refuseAuto(labels: Readonly<Record<string, string>>): void {
  if (labels.auto === undefined) return
  throw new NbdeltaError('bad-argument', 'the label auto is the server\'s own', { hint: 'choose another key' })
}

/** What was given of it. */
export function defined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as ReturnType<typeof defined<T>>
}
