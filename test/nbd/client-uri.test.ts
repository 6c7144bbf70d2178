// Section 16: what a URI means, and what is said about one that means nothing.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { nbdUri, parseNbdUri } from '../../src/nbd/uri.js'

const GOOD: readonly [string, object, string][] = [
  ['nbd://example.org', { host: 'example.org', port: 10809 }, ''],
  ['nbd://example.org/', { host: 'example.org', port: 10809 }, ''],
  ['NBD://example.org:7/disk', { host: 'example.org', port: 7 }, 'disk'],
  ['nbd://example.org:/disk', { host: 'example.org', port: 10809 }, 'disk'],
  ['nbd://h//disk', { host: 'h', port: 10809 }, '/disk'],
  ['nbd://h/a/b%20c%3f', { host: 'h', port: 10809 }, 'a/b c?'],
  ['nbd://[::1]:9/x', { host: '::1', port: 9 }, 'x'],
  ['nbd://[fe80::1%25eth0]/x', { host: 'fe80::1%eth0', port: 10809 }, 'x'],
  ['nbd://127.0.0.1/%C3%BC', { host: '127.0.0.1', port: 10809 }, 'ü'],
  ['nbd+unix:///disk?socket=/run/a%20b.sock', { path: '/run/a b.sock' }, 'disk'],
  ['nbd+unix://?socket=s', { path: 's' }, ''],
  ['nbd+unix:/disk?socket=/s', { path: '/s' }, 'disk'],
  ['nbd+unix:///?socket=%00/x', { path: '\0/x' }, ''],
]
for (const [uri, address, exportName] of GOOD) {
  t.test(uri, async t => { t.strictSame(parseNbdUri(uri), { address, exportName }) })
}

const BAD: readonly [string, RegExp, RegExp][] = [
  ['', /not a URI/, /nbd:\/\/HOST/],
  ['/dev/sda', /not a URI/, /nbd:\/\/HOST/],
  ['http://h/x', /"http" is not a scheme/, /nbd:\/\/HOST/],
  ['nbd+vsock://3:10809/x', /not a scheme/, /nbd\+unix/],
  ['nbds://h/x', /TLS is not supported yet/, /without TLS write nbd:/],
  ['nbds+unix:///x?socket=/s', /TLS is not supported yet/, /without TLS write nbd\+unix:/],
  ['nbd://user@h/x', /a user needs TLS/, /nbd:\/\/HOST/],
  ['nbd:///x', /host is missing/, /nbd:\/\/HOST/],
  ['nbd://::1/x', /host/, /IPv6 addresses in brackets/],
  ['nbd://[::1/x', /host/, /brackets/],
  ['nbd://h:0/x', /port/, /undefined/],
  ['nbd://h:65536/x', /port/, /undefined/],
  ['nbd://h:1x/x', /host/, /./],
  ['nbd://h/x?socket=/s', /"socket" is not a parameter of this kind/, /nbd\+unix/],
  ['nbd://h/x?tls-certificates=/etc', /TLS is not supported yet/, /leave it out/],
  ['nbd://h/x?timeout=3', /"timeout" is not a parameter/, /./],
  ['nbd+unix:///x', /socket is missing/, /socket=\/PATH/],
  ['nbd+unix:///x?socket=', /socket is missing/, /socket=\/PATH/],
  ['nbd+unix://h/x?socket=/s', /no host/, /three slashes/],
  ['nbd+unix:///x?socket=/s&socket=/t', /twice/, /undefined/],
  ['nbd+unix:///x?socket=/a%00b', /NUL/, /undefined/],
  ['nbd://h/%zz', /"%"/, /%25/],
  ['nbd://h/%ff', /"%"/, /%25/],
  ['nbd://h/a%00b', /no NUL/, /undefined/],
  ['nbd://h/x#y', /fragment/, /%23/],
  [`nbd://h/${'x'.repeat(5000)}`, /at most 4096 bytes/, /undefined/],
]
for (const [uri, message, hint] of BAD) {
  t.test(`refused: ${uri.slice(0, 60)}`, async t => {
    const error = t.throws(() => parseNbdUri(uri), { code: 'bad-argument', message }) as unknown as NbdeltaError
    t.match(String(error.hint), hint)
    t.ok(error.message.length < 400, 'the message is short')
  })
}

t.test('no credentials in messages', async t => {
  t.throws(() => parseNbdUri('nbds://secret@h/x'), { message: /^(?!.*secret)/ })
})

t.test('what nbdUri writes is read back', async t => {
  for (const address of [{ path: '/run/a b/s.sock' }, { path: '\0x' }, { host: '::1', port: 7 }, { host: '10.0.0.1', port: 10809 }]) {
    for (const exportName of ['', 'disk', 'a/b', '/x', 'vol@point', 'ü %?#&']) {
      t.strictSame(parseNbdUri(nbdUri(address, exportName)), { address, exportName })
    }
  }
})
