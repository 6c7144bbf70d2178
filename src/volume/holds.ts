/**
 * Holds: the whole volume for one who changes its points or its size, with what is staged out of the way (staging.ts). A new
 * point holds it in another way (point-creation.ts).
 */
import { EVERYTHING } from '../device/range-lock.js'
import type { VolumeCore } from './core.js'

/** What comes while everything is moved is moved once more, before anybody has to wait for it. */
const DRAINS = 3

/** Little is left of what is staged, while clients go on: those who stage more have to be `tightened`. Errors: of the disks. */
export async function drainMost({ staging }: VolumeCore): Promise<void> {
  for (let i = 0; i < DRAINS && staging && !staging.isSettled; i++) await staging.drain()
}

/**
 * Holds the whole volume, with nothing staged: for whoever changes its points or its size. Nobody waits for what was staged
 * before but for the last of it. Errors: those of the disks.
 */
export async function lockWhole(core: VolumeCore): Promise<void> {
  const { staging, locks } = core
  staging?.tighten()
  try {
    await drainMost(core)
    await staging?.pause()
    try {
      await locks.lock(0, EVERYTHING)
    } finally {
      staging?.resume()
    }
  } finally {
    staging?.loosen()
  }
}

/**
 * `change` runs with the whole volume held; what is staged stays where it is, and none of it is on its way. For whoever only
 * takes a point away: who needs the old content is found out when it is moved, and on a full disk that waits for the deletion.
 */
export async function holdUnmoved(core: VolumeCore, change: () => void): Promise<void> {
  await core.staging?.stall()
  try {
    await core.locks.lock(0, EVERYTHING)
    try {
      change()
    } finally {
      core.locks.unlock(0, EVERYTHING)
    }
  } finally {
    core.staging?.unstall()
  }
}
