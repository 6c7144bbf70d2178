// Section 13: the handshakes of real clients as they were recorded, replayed against the server.
import t from 'tap'
import { createServer } from '../../src/nbd/server.js'
import { Peer } from './support/peer.js'
import { recordingExports, replay } from './support/record-replay.js'
import { recording as fio } from './recorded/fio.js'
import { recording as nbdClientList } from './recorded/nbd-client-list.js'
import { recording as nbdcopyIn } from './recorded/nbdcopy-in.js'
import { recording as nbdcopyOut } from './recorded/nbdcopy-out.js'
import { recording as nbdinfoList } from './recorded/nbdinfo-list.js'
import { recording as nbdinfoMap } from './recorded/nbdinfo-map.js'
import { recording as nbdinfo } from './recorded/nbdinfo.js'
import { recording as qemuImgConvert } from './recorded/qemu-img-convert.js'
import { recording as qemuImgInfo } from './recorded/qemu-img-info.js'
import { recording as qemuImgMap } from './recorded/qemu-img-map.js'
import { recording as qemuIo } from './recorded/qemu-io.js'

const all = [nbdinfo, nbdinfoList, nbdinfoMap, nbdcopyOut, nbdcopyIn, qemuImgInfo, qemuImgMap, qemuImgConvert, qemuIo, fio,
  nbdClientList]

for (const { client, connections } of all) {
  t.test(`section 13: ${client}`, async t => {
    for (const directReceive of [true, false]) {
      const server = await createServer({ exports: recordingExports(), listen: [{ host: '127.0.0.1', port: 0 }], directReceive })
      const [address] = server.addresses
      for (const { hex, outcome } of connections) {
        const peer = await Peer.connect(address)
        t.strictSame(await replay(peer, Buffer.from(hex.join(''), 'hex')), outcome, directReceive ? 'direct' : 'copying')
        peer.destroy()
      }
      await server.close({ deadlineMs: 100 })
    }
  })
}
