/** An export provider over a fixed set of open devices, for programs and tests that have no store. */
import { NbdeltaError } from '../device/errors.js'
import type { BlockDevice } from '../device/block-device.js'
import type { ExportHandle, ExportInfo, ExportProvider } from './export.js'

export function isProvider(exports: ExportProvider | Record<string, BlockDevice>): exports is ExportProvider {
  const { list, describe, open } = exports as Partial<ExportProvider>
  return typeof list === 'function' && typeof describe === 'function' && typeof open === 'function'
}

/** Each device under its name; the only one, if it is one, is the default export as well. Devices stay the caller's to close. */
export function deviceExports(devices: Readonly<Record<string, BlockDevice>>): ExportProvider {
  const names = Object.keys(devices)
  const canonical = (name: string): string | undefined => {
    if (Object.hasOwn(devices, name)) return name
    return name === '' && names.length === 1 ? names[0] : undefined
  }
  const describe = (asked: string): ExportInfo | undefined => {
    const name = canonical(asked)
    if (name === undefined) return undefined
    const device = devices[name]!
    const { sizeBytes, blockSizes, capabilities } = device
    return { name, description: '', sizeBytes, readOnly: capabilities.readOnly, blockSizes, capabilities }
  }
  const open = async (asked: string): Promise<ExportHandle> => {
    const info = describe(asked)
    if (info === undefined) throw new NbdeltaError('not-found', 'there is no such export')
    return { info, device: devices[info.name]!, release: () => {} }
  }
  return { list: () => names.map((name) => ({ name, description: '' })), describe, open }
}
