/** WholeFile: small files that are written and replaced as a whole. Errors: those of the file system, as they are. */
import { constants } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { syncFolder } from '../device/sync-folder.js'

/** The file anew, its content durable; its name is so when its folder is synced. */
export async function writeDurably(path: string, bytes: Buffer): Promise<void> {
  await rm(path, { force: true })
  const file = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600)
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** What it was or what it shall be, whatever happens; durable when done. `draft`, in its folder, does not outlive a failure. */
export async function replaceFile(path: string, draft: string, bytes: Buffer): Promise<void> {
  try {
    await writeDurably(draft, bytes)
    await rename(draft, path)
    await syncFolder(dirname(path))
  } catch (error) {
    await rm(draft, { force: true }).catch(() => undefined)
    throw error
  }
}
