/** Random histories of a volume with a budget, against plain arrays: what one of them finds wrong, in words. */
import { NbdeltaError } from '../../src/device/errors.js'
import { seededRandom } from '../../src/device/testing.js'
import { GRAIN } from './lab.js'
import { SpaceRig } from './space-lab.js'

const GRAINS = 16
const STEPS = 50

type Kind = 'undo' | 'spare' | 'mine'
interface Kept { readonly content: number[], readonly kind: Kind, pinned: boolean }

/** As the image of a mirror's cycle: open, until its maker is told to let go. */
async function makeSpare(rig: SpaceRig, name: string): Promise<void> {
  let device: { close(): Promise<void> } | undefined
  const letGo = (): void => { setImmediate(() => { void device?.close() }) }
  await rig.volume.points.create({ name, kind: 'snapshot', pins: [{ owner: 'maker', expiresAt: null }], letGo })
  device = rig.volume.points.open(name, { yields: true })
}

export async function spaceHistory(seed: number): Promise<string | undefined> {
  const random = seededRandom(seed)
  const rig = await SpaceRig.open({ grains: GRAINS, staging: seed % 2 === 0, budget: random(12), order: seed % 5 === 0 ? 'fail' : 'drop-undo-then-fail' })
  const live = Array<number>(GRAINS).fill(1)
  const points = new Map<string, Kept>()
  const word = (what: string): string => `seed ${seed}: ${what}`
  /** Undo points may be gone now, oldest first, and when none is left what can be done without; nothing else. */
  const forget = (): string | undefined => {
    const { names } = rig
    const gone = [...points].filter(([name]) => !names.includes(name))
    for (const [name, { kind, pinned }] of gone) {
      if (kind === 'mine' || pinned) return word(`${name} was given up`)
      points.delete(name)
    }
    const undo = [...points].find(([, { kind, pinned }]) => kind === 'undo' && !pinned)
    const spare = gone.find(([, { kind }]) => kind === 'spare')
    return undo && spare ? word(`${spare[0]} was given up before ${undo[0]}`) : undefined
  }
  for (let step = 0; step < STEPS; step++) {
    const dice = random(20)
    const grain = random(GRAINS)
    if (dice < 3) {
      const name = `p${step}`
      const kind: Kind = dice >= 2 ? 'mine' : random(2) === 0 ? 'undo' : 'spare'
      if (kind === 'spare') await makeSpare(rig, name)
      else await rig.snapshot(name, kind === 'undo')
      points.set(name, { content: [...live], kind, pinned: random(3) === 0 })
      if (points.get(name)!.pinned) await rig.volume.points.pin(name, { owner: 'me', expiresAt: null })
    } else if (dice < 4 && points.size > 2) {
      const [name, { kind, pinned }] = [...points][random(points.size)]!
      if (pinned) await rig.volume.points.unpin(name, 'me')
      if (kind !== 'spare') {
        await rig.volume.points.delete(name)
        points.delete(name)
      } else points.get(name)!.pinned = false
    } else if (dice < 5 && random(4) === 0) {
      for (const [name, { kind, pinned }] of points) {
        if (kind === 'spare') continue
        if (pinned) await rig.volume.points.unpin(name, 'me')
        await rig.volume.points.delete(name)
        points.delete(name)
      }
    } else if (dice < 5) rig.budget = Math.max(random(14), rig.kept)
    else if (dice < 6) {
      await rig.volume.trim(grain * GRAIN, GRAIN)
      live[grain] = 0
    } else if (dice < 7) await rig.clock.advance(100)
    else {
      const fill = 2 + random(250)
      const failed = await rig[dice < 14 ? 'write' : 'touch'](grain, fill).then(() => undefined, (error: unknown) => error)
      if (failed && !(failed instanceof NbdeltaError && failed.code === 'no-space')) throw failed
      if (!failed) live[grain] = fill
      const wrong = forget()
      if (wrong) return wrong
      const { budgetBytes, order } = rig.volume.space
      const left = [...points].find(([, { kind, pinned }]) => kind !== 'mine' && !pinned)
      if (failed && rig.kept * GRAIN + GRAIN <= budgetBytes!) return word(`step ${step}: failed with room for a grain`)
      if (failed && left && order === 'drop-undo-then-fail') return word(`step ${step}: failed while ${left[0]} could go`)
    }
    // What is handed over is there twice for a moment.
    if (rig.kept * GRAIN > rig.volume.space.budgetBytes!) await rig.volume.points.settled()
    if (rig.kept * GRAIN > rig.volume.space.budgetBytes!) return word(`step ${step}: more is kept than the budget allows`)
  }
  for (const [name, { content }] of points) {
    if (String(await rig.content(name)) !== String(content)) return word(`${name} is not what it was`)
  }
  if (String(await rig.live()) !== String(live)) return word('live is not what was answered')
  await rig.clock.advance(1000)
  await rig.volume.points.settled()
  const { kept } = rig
  if (rig.points.used < kept) return word(`${kept} counted, ${rig.points.used} on the disk`)
  await rig.reopen()
  if (rig.kept !== kept) return word(`${kept} counted, ${rig.kept} found at open`)
  for (const [name, { content }] of points) {
    if (String(await rig.content(name)) !== String(content)) return word(`${name} is not what it was, opened again`)
  }
  await rig.volume.close()
  return undefined
}
