/**
 * Making the names in a folder durable: that of a file that was made, renamed or removed is so only when its folder is synced,
 * whatever was done about its content. Errors: those of the file system, as they are.
 */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'

export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, constants.O_RDONLY)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
