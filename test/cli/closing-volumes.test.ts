// A list does not fail because one of its volumes is being closed or deleted at that moment, or its disk does not answer.
import t from 'tap'
import { DaemonAdmin } from '../../src/daemon-admin.js'
import { NbdeltaError } from '../../src/index.js'

type Parts = ConstructorParameters<typeof DaemonAdmin>[0]

t.test('volume list and volume show tell what is known of a volume that is just being closed', async t => {
  const row = { uuid: 'u', sizeBytes: 512, grainBytes: 4096, backing: null, createdAt: '', description: '', space: null, problem: undefined }
  const volumes = [
    { ...row, name: 'a', facts: async () => { throw new NbdeltaError('wrong-state', 'the volume is closed') } },
    { ...row, name: 'b', facts: async () => ({ allocatedBytes: 1, mappedBytes: 2, inheritedBytes: 0, staleBytes: 0 }) },
  ]
  const parts = {
    store: { list: () => volumes, get: (name: string) => volumes.find(volume => volume.name === name) },
    server: { clients: () => [] }, exports: { isHidden: () => false },
  } as unknown as Parts
  const admin = new DaemonAdmin(parts)
  t.match(await admin.listVolumes(), [{ name: 'a', allocatedBytes: null, mappedBytes: null }, { name: 'b', allocatedBytes: 1, mappedBytes: 2 }])
  t.match(await admin.showVolume('a'), { name: 'a', sizeBytes: 512 })
})
