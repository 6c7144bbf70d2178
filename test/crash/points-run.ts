/** The workloads of volumes with points, one step each: what a client, an operator and time may do to them. */
import { slow } from './liars.js'
import type { WorkloadOptions } from './run.js'
import type { CrashLab } from './harness.js'
import { zeroesStep } from './steps.js'

const GRAIN = 4096

export const POINTS = { points: true, sizeBytes: 6 * GRAIN, steps: 12, statesPerRun: 1500, settleEvery: 6 } as const satisfies Omit<WorkloadOptions, 'states'>

/** Live is quick, all else answers some turns later. */
export const RACING = {
  steps: 3,
  plant: (disks, random) => ({ live: disks.live, map: slow(disks.map, random), journal: slow(disks.journal, random) }),
  plantFile: (disk, _, random) => slow(disk, random),
} as const satisfies Partial<WorkloadOptions>

/** Makes a point; when there is no room for more, deletes one. */
async function create(lab: CrashLab): Promise<void> {
  const made = lab.ready.length < 4 && await lab.createPoint(lab.random(4) === 0 ? 'bookmark' : 'snapshot')
  if (!made) await remove(lab)
}

async function remove(lab: CrashLab): Promise<void> {
  const ready = lab.ready.filter(point => lab.isFree(point))
  if (ready.length > 0) await lab.deletePoint(ready[lab.random(ready.length)])
}

/** Points made, overwritten, written with preserving. */
export async function createStep(lab: CrashLab): Promise<void> {
  if (lab.random(3) === 0) await create(lab)
  else await zeroesStep(lab)
}

/** Points go, in any order, while requests and time go on. */
export async function deleteStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  if (roll < 3) await create(lab)
  else if (roll < 6) await remove(lab)
  else if (roll < 7) await lab.volume.points.settled()
  else await zeroesStep(lab)
}

/** Old content again and again: few grains, many overwrites, trims between. */
export async function preserveStep(lab: CrashLab): Promise<void> {
  const grains = Math.floor(lab.sizeBytes / GRAIN)
  const grain = lab.random(grains) * GRAIN
  const roll = lab.random(12)
  if (roll < 3) await create(lab)
  else if (roll < 6) await lab.write(grain + lab.random(8) * 512, 512)
  else if (roll < 7) await lab.write(0, lab.sizeBytes)
  else if (roll < 9) await lab.trim(grain, GRAIN * (1 + lab.random(2)) > lab.sizeBytes - grain ? lab.sizeBytes - grain : GRAIN)
  else if (roll < 10) await lab.zero(grain, GRAIN, { fast: true })
  else if (roll < 11) await lab.flush()
  else await lab.wait([30, 11_000][lab.random(2)])
}

/** Whole grains over what a snapshot needs, which wait in the staging log; and all that meets them there. */
export async function stagedStep(lab: CrashLab): Promise<void> {
  const grains = Math.floor(lab.sizeBytes / GRAIN)
  if (lab.points.length === 0) {
    await lab.write(0, lab.sizeBytes)
    await lab.createPoint('snapshot')
  }
  const from = lab.random(grains)
  const count = 1 + lab.random(Math.min(3, grains - from))
  const roll = lab.random(20)
  if (roll < 8) await lab.write(from * GRAIN, count * GRAIN)
  else if (roll < 9 && grains >= 5) await Promise.all([lab.write(0, GRAIN), lab.write(GRAIN, GRAIN), lab.write(3 * GRAIN, 2 * GRAIN)])
  else if (roll < 11) await lab.write(from * GRAIN + 512, 1024)
  else if (roll < 12) await lab.zero(from * GRAIN, count * GRAIN, { fast: true })
  else if (roll < 13) await lab.trim(from * GRAIN, GRAIN)
  else if (roll < 15) await create(lab)
  else if (roll < 16) await remove(lab)
  else if (roll < 17) await lab.flush()
  else if (roll < 19) await lab.wait([30, 60, 200, 11_000][lab.random(4)])
  else await lab.reopen()
}

/** A point is made while whole grains over what an older one needs are written: some are staged before its instant, some behind. */
export async function stagedRacesStep(lab: CrashLab): Promise<void> {
  if (lab.points.length === 0) {
    await lab.write(0, lab.sizeBytes)
    await lab.createPoint('snapshot')
  }
  const turns = async (most: number): Promise<void> => {
    for (let i = lab.random(most); i > 0; i--) await new Promise(resolve => { setImmediate(resolve) })
  }
  const client = async (part: number): Promise<void> => {
    for (let i = 0; i < 4; i++) {
      await turns(8)
      const grain = (part * 3 + lab.random(2)) * GRAIN
      const roll = lab.random(10)
      if (roll < 8) await lab.write(grain, GRAIN * (1 + lab.random(2)))
      else if (roll < 9) await lab.write(grain + 512, 1024)
      else await lab.flush()
    }
  }
  const operator = async (): Promise<void> => {
    await turns(8)
    if (lab.random(5) > 0) await create(lab)
    else await remove(lab)
    await turns(6)
    if (lab.random(3) === 0) await lab.wait([60, 200, 11_000][lab.random(3)])
  }
  await Promise.all([client(0), client(1), operator()])
}

/** The window of a large volume alone. */
export async function preserveAtBorderStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  const [offset, length] = lab.place(4)
  if (roll < 3) await create(lab)
  else if (roll < 6) await lab.write(offset, length)
  else if (roll < 7) await lab.trim(offset, length)
  else if (roll < 8) await lab.zero(offset, length)
  else if (roll < 9) await lab.flush()
  else await lab.wait(11_000)
}

/** Restores and clean closes, too: of maps that have several pages, the window lies on two of them. */
export async function restoreAtBorderStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  const [start, length] = lab.window
  const snapshots = lab.ready.filter(({ kind }) => kind === 'snapshot')
  if (lab.points.length === 0) {
    await lab.write(start, length)
    await lab.createPoint('snapshot')
  } else if (roll < 2 && snapshots.length > 0) {
    const range = lab.random(3) === 0 ? [start, length] as const : undefined
    await lab.restore(snapshots[lab.random(snapshots.length)], [undefined, 2048][lab.random(2)], range)
  } else if (roll < 3) await lab.reopen()
  else if (roll < 5) await lab.write(start + GRAIN * lab.random(length / GRAIN), GRAIN)
  else await preserveAtBorderStep(lab)
}

/** Checkpoints and clean closes between all that. */
export async function pointCheckpointsStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  if (roll < 3) await lab.wait(11_000)
  else if (roll < 4) await lab.reopen()
  else await (roll < 7 ? preserveStep(lab) : deleteStep(lab))
}

export async function pointResizesStep(lab: CrashLab): Promise<void> {
  if (lab.random(4) === 0) return stagedStep(lab)
  const roll = lab.random(10)
  if (roll >= 4) return roll < 7 ? preserveStep(lab) : deleteStep(lab)
  const end = lab.window[0] + lab.window[1]
  const step = (1 + lab.random(4)) * 1536
  await lab.resize(roll < 2 ? Math.min(end, lab.sizeBytes + step) : Math.max(2 * GRAIN, lab.sizeBytes - step))
}

/** A point is made, or one deleted, while requests are in flight and the background is at work. */
export async function pointRacesStep(lab: CrashLab): Promise<void> {
  const turns = async (most: number): Promise<void> => {
    for (let i = lab.random(most); i > 0; i--) await new Promise(resolve => { setImmediate(resolve) })
  }
  const client = async (part: number): Promise<void> => {
    for (let i = 0; i < 4; i++) {
      await turns(4)
      const grain = part * 2 * GRAIN
      const roll = lab.random(6)
      if (roll < 3) await lab.write(grain + lab.random(8) * 512, 512 * (1 + lab.random(8)))
      else if (roll < 4) await lab.zero(grain, 2 * GRAIN, { fast: true })
      else if (roll < 5) await lab.trim(grain + GRAIN, GRAIN)
      else await lab.flush()
    }
  }
  const operator = async (): Promise<void> => {
    await turns(6)
    if (lab.random(2) === 0) await create(lab)
    else await remove(lab)
    await turns(6)
    if (lab.random(2) === 0) await lab.wait(lab.random(2) === 0 ? 30 : 11_000)
  }
  await Promise.all([client(0), client(1), operator()])
}

/** The volume becomes what a snapshot was, at once or slowly, whole or in part, while all else goes on. */
export async function restoreStep(lab: CrashLab): Promise<void> {
  if (lab.random(4) === 0) return stagedStep(lab)
  const roll = lab.random(12)
  const snapshots = lab.ready.filter(({ kind }) => kind === 'snapshot')
  if (roll < 3 && snapshots.length > 0) {
    const range = lab.random(4) === 0 ? lab.place(3) : undefined
    await lab.restore(snapshots[lab.random(snapshots.length)], [undefined, undefined, 2048][lab.random(3)], range)
  } else if (roll < 4 || lab.points.length === 0) await create(lab)
  else if (roll < 5) await remove(lab)
  else if (roll < 7) await lab.wait([30, 1500, 11_000][lab.random(3)])
  else await preserveStep(lab)
}

/** A clone, written to while its base is, then perhaps promoted. */
export async function cloneStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(12)
  const { heir } = lab
  const snapshots = lab.ready.filter(({ kind, sizeBytes }) => kind === 'snapshot' && sizeBytes === lab.options.sizeBytes)
  if (!heir) {
    if (snapshots.length > 0 && roll < 6) await lab.makeClone(snapshots[lab.random(snapshots.length)])
    else await (roll < 8 ? create(lab) : preserveStep(lab))
  } else if (roll < 6) await zeroesStep(heir)
  else if (roll < 7 && heir.volume.inheritor.foreign.length > 0) await heir.promote()
  else if (roll < 8) await lab.reopen()
  else if (roll < 9) await remove(lab)
  else await preserveStep(lab)
}
