/** Of disks whose flush, when it fails, is made good by the next one: nothing has to be written again. */
import type { UnsyncedFile } from '../../src/store/unsynced-file.js'

export const NOTHING_UNSYNCED = { read: async () => [], write: async () => undefined } as unknown as UnsyncedFile
