// The argument parser: what is typed, what it means, and what is said when it means nothing.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { parseArguments } from '../../src/cli/program.js'
import { commandName } from '../../src/control/commands.js'

function parse(line: string): { name: string, args: Record<string, unknown>, globals: unknown } {
  const parsed = parseArguments(line === '' ? [] : line.split(' '))
  if (parsed.kind !== 'command') throw new Error(`help: ${parsed.text.slice(0, 40)}`)
  return { name: commandName(parsed.command), args: parsed.args, globals: parsed.globals }
}

const GIB = 2 ** 30
const understood: readonly [string, string, object, object?][] = [
  ['volume create d --size 1GiB', 'volume create', { name: 'd', size: GIB, grain: 4096, description: '', ifNotExists: false }],
  ['volume create --size=1G d --grain 64k --if-not-exists', 'volume create',
    { name: 'd', size: GIB, grain: 65536, ifNotExists: true }],
  ['--store s volume list', 'volume list', { quiet: false }, { store: 's', json: false }],
  ['volume list --store s --json -q', 'volume list', { quiet: true }, { store: 's', json: true }],
  ['volume --control c list', 'volume list', {}, { control: 'c' }],
  ['volume import d ./x --no-wait', 'volume import', { name: 'd', path: './x', wait: false, overwrite: false, dryRun: false }],
  ['volume import d ./x --wait', 'volume import', { wait: true }],
  ['volume export d -- -odd-name', 'volume export', { path: '-odd-name', wait: true }],
  ['volume delete d --force --if-exists --dry-run', 'volume delete', { force: true, ifExists: true, dryRun: true }],
  ['export kick d --how hard', 'export kick', { name: 'd', how: 'hard' }],
  ['client kick 12', 'client kick', { id: 12 }],
  ['job cancel 3', 'job cancel', { id: 3 }],
  ['serve --store s', 'serve', { spin: true, drainSeconds: 30, logLevel: 'info', nbdMode: '0600', memory: 64 * 2 ** 20 }],
  ['serve --store s --nbd unix:a --nbd tcp:h:1 --no-spin --memory 256M --create-volume a=1G --create-volume b=2G', 'serve',
    { nbd: ['unix:a', 'tcp:h:1'], spin: false, memory: 256 * 2 ** 20, createVolume: ['a=1G', 'b=2G'] }],
  ['snapshot create d s --label a=b --label c= --bookmark', 'snapshot create', { volume: 'd', name: 's', bookmark: true, label: ['a=b', 'c='] }],
  ['snapshot create d@s --label a@b=c@d', 'snapshot create', { volume: 'd', name: 's', label: ['a@b=c@d'] }],
  ['--store a@b snapshot show d@s', 'snapshot show', { volume: 'd', name: 's' }, { store: 'a@b' }],
  ['snapshot pin --owner me@here d@s --expires 12h', 'snapshot pin', { volume: 'd', name: 's', owner: 'me@here', expires: 43_200 }],
  ['snapshot list', 'snapshot list', { quiet: false }],
  ['snapshot list d', 'snapshot list', { volume: 'd' }],
  ['snapshot diff d@a b', 'snapshot diff', { volume: 'd', from: 'a', to: 'b', limit: 1000 }],
  ['snapshot restore d s --rate 50MiB/s --offset 4k --no-wait', 'snapshot restore',
    { rate: 50 * 2 ** 20, offset: 4096, wait: false, force: false, dryRun: false }],
  ['snapshot clone d@s new', 'snapshot clone', { volume: 'd', name: 's', to: 'new' }],
  ['volume promote c --rate 1M', 'volume promote', { name: 'c', rate: 2 ** 20, wait: true }],
  ['group create g a b c', 'group create', { name: 'g', volumes: ['a', 'b', 'c'] }],
  ['delta export d@s - --from p --compress gzip', 'delta export', { volume: 'd', to: 's', file: '-', from: 'p', compress: 'gzip' }],
  ['delta import d@s -', 'delta import', { volume: 'd@s', file: '-' }],
  ['delta merge a b c', 'delta merge', { files: ['a', 'b', 'c'], overwrite: false }],
  ['schedule set d --hourly 24 --keep-bookmarks', 'schedule set', { hourly: 24, daily: 0, weekly: 0, keepBookmarks: true, dryRun: false }],
  ['completion zsh', 'completion', { shell: 'zsh' }],
  ['status', 'status', {}],
]
for (const [line, name, args, globals] of understood) {
  t.test(line, async t => { t.match(parse(line), { name, args, ...globals && { globals } }) })
}

const README = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
const shown = [...README.matchAll(/^ {4}nbdelta (.*)$/gm)].map(([, line]) => line!)
t.test("README's commands are understood as they stand there", async t => {
  t.ok(shown.length >= 6)
  for (const line of shown) t.doesNotThrow(() => parse(line), line)
})

const refused: readonly [string, RegExp, RegExp][] = [
  ['frobnicate', /unknown command 'frobnicate'/, /nbdelta --help/],
  ['volme list', /unknown command 'volme'.*volume/, /--help/],
  ['volume', /'volume' needs a verb/, /nbdelta volume --help/],
  ['volume crate d', /unknown command 'crate'.*create/, /nbdelta volume --help/],
  ['volume create', /^NAME is missing/, /nbdelta volume create --help/],
  ['volume create d extra', /too many arguments/, /volume create --help/],
  ['volume create d --siez 1G', /unknown option '--siez'.*--size/, /volume create --help/],
  ['volume create d --size', /argument missing/, /volume create --help/],
  ['volume create d --size ten', /--size: 'ten' is not a size/, /1GiB/],
  ['volume create d --size 1GB', /--size: '1GB': decimal units/, /1GiB/],
  ['volume create d --size 0', /--size 0 is too small/, /at least 512/],
  ['volume create d --size 1G --grain 5000', /--grain 5000 is not a power of two/, /^$/],
  ['volume create d --size 1G --grain 2M', /--grain 2MiB is too large/, /at most 1MiB/],
  [`volume create ${'x'.repeat(300)} --size 1G`, /NAME: a name of 300 bytes is longer than 128/, /^$/],
  ['volume resize d', /--size is missing/, /volume resize --help/],
  ['client kick seven', /ID: 'seven' is not a whole number/, /^$/],
  ['export kick d --how gently', /--how 'gently' is unknown/, /soft, hard/],
  ['completion tcsh', /'tcsh' is unknown/, /bash, zsh, fish/],
  ['serve --store s --nbd nowhere', /--nbd: 'nowhere' is not an address/, /unix:PATH/],
  ['serve --store s --nbd tcp:h:99999', /port 99999 is above 65535/, /tcp:HOST/],
  ['serve --store s --memory 1M', /--memory 1MiB is too small/, /at least 64MiB/],
  ['serve --store s --log-level loud', /--log-level 'loud' is unknown/, /info/],
  ['serve --store s --create-volume disk', /--create-volume: 'disk' is not NAME=SIZE/, /disk=1GiB/],
  ['--store', /argument missing/, /nbdelta --help/],
  ['snapshot show d', /^NAME is missing/, /snapshot show --help/],
  ['snapshot show d@', /^NAME is missing/, /snapshot show --help/],
  ['snapshot diff d@a d@b c', /too many arguments/, /snapshot diff --help/],
  ['snapshot create d s --label novalue', /--label: 'novalue' is not KEY=VALUE/, /purpose=backup/],
  ['snapshot pin d s', /--owner is missing/, /snapshot pin --help/],
  ['snapshot pin d s --owner o --expires soon', /--expires: 'soon' is not a duration/, /90s, 12h, 7d/],
  ['snapshot pin d s --owner o --expires 0', /is not a duration/, /12h/],
  ['snapshot restore d s --rate 1', /--rate 1 is too small/, /at least 4KiB/],
  ['group create g', /^VOLUME is missing/, /group create --help/],
  ['delta export d s x --compress lzma', /--compress 'lzma' is unknown/, /gzip, zstd/],
  ['delta merge', /^FILE is missing/, /delta merge --help/],
  ['schedule set d --hourly 500', /--hourly 500 is too large/, /at most 400/],
]
for (const [line, message, hint] of refused) {
  t.test(`refuses ${line.slice(0, 60)}`, async t => {
    try {
      parse(line)
      t.fail('it was understood')
    } catch (error) {
      t.match(error, { name: 'NbdeltaError', code: 'bad-argument', message })
      t.match((error as { hint?: string }).hint ?? '', hint)
    }
  })
}

t.test('help in all its forms', async t => {
  const forms: readonly [string[], RegExp][] = [
    [['--help'], /network block device server/], [['-h'], /network block device server/],
      [['help'], /network block device server/],
    [['volume', '--help'], /nbdelta volume - /], [['help', 'volume'], /nbdelta volume - /],
      [['volume', 'create', '--help'], /nbdelta volume create - /],
    [['volume', 'create', '-h'], /SYNOPSIS/], [['volume', 'help', 'create'], /nbdelta volume create - /],
      [['serve', '--help'], /drains/],
  ]
  for (const [argv, text] of forms) t.match(parseArguments(argv), { kind: 'help', text }, argv.join(' '))
  t.throws(() => parseArguments([]), { code: 'bad-argument', message: 'a command is needed' })
})
