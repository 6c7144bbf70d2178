// The Linux kernel's NBD client in a QEMU guest: attach with four connections, ext4, detach. `make interop-kernel` does the rest.
import t from 'tap'
import { cannotRunGuest, runGuest } from '../../scripts/interop/kernel.js'

t.setTimeout(300_000)

t.test('the kernel client', { skip: await cannotRunGuest() }, async t => {
  await runGuest({ phases: ['attach', 'filesystems'], filesystems: ['ext4'] }, {
    judged: (title, good) => { t.ok(good, title) },
    note: line => { t.comment(line.trim()) },
  })
})
