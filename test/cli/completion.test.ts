// Completion: what is offered for the word being typed, and that bash really asks for it.
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { COMPLETION_SCRIPTS, complete, encodeCompletion } from '../../src/cli/completion.js'

const asked: unknown[] = []
const lookup = async (kind: string, globals: unknown): Promise<{ value: string, help: string }[]> => {
  asked.push([kind, globals])
  return [{ value: 'disk', help: 'a disk' }, { value: 'db one', help: '' }]
}
const offered = async (line: string): Promise<string[]> =>
  (await complete(line.split(' '), lookup)).candidates.map(candidate => candidate.value)

t.test('words', async t => {
  const rows: readonly [string, readonly string[]][] = [
    ['v', ['volume', 'version']], ['volume ', ['create', 'list', 'show', 'resize', 'set-budget', 'import', 'export', 'reopen', 'delete', 'promote']],
      ['volume re', ['resize', 'reopen']],
    ['volume show ', ['disk', 'db one']], ['volume show di', ['disk']], ['volume show disk --j', ['--json']], ['nonsense ', []],
    ['export kick disk --how ', ['soft', 'hard']], ['export kick disk --how s', ['soft']],
      ['completion ', ['bash', 'zsh', 'fish']],
    ['volume import disk x --no', ['--no-wait']], ['--store s vol', ['volume']], ['volume create x --size ', []],
      ['job show ', ['disk', 'db one']],
    ['serve --nbd unix:a --nb', ['--nbd', '--nbd-mode']], ['volume delete disk --force --f', []],
  ]
  for (const [line, values] of rows) t.same(await offered(line), values, `'${line}'`)
})

t.test('paths are left to the shell', async t => {
  t.equal((await complete(['--store', ''], lookup)).paths, 'directories')
  t.equal((await complete(['volume', 'import', 'disk', ''], lookup)).paths, 'files')
  t.equal((await complete(['volume', 'create', 'd', '--backing', 'x'], lookup)).paths, 'files')
})

t.test('names are asked of the server the line names', async t => {
  asked.length = 0
  await complete(['--store', 'a', 'volume', 'show', ''], lookup)
  await complete(['volume', 'show', '--control', 'b', ''], lookup)
  t.same(asked, [['volume', { store: 'a', control: undefined }], ['volume', { store: undefined, control: 'b' }]])
})

t.test('points are asked for of their volume; several volumes one after the other', async t => {
  const kinds: unknown[] = []
  const seen = async (kind: string, _where: unknown, volume?: string) => { kinds.push([kind, volume]); return [] }
  for (const words of [['snapshot', 'show', ''], ['snapshot', 'show', 'disk', ''], ['snapshot', 'create', 'disk', ''],
    ['snapshot', 'diff', 'disk', 'a', ''], ['delta', 'export', 'disk', '--from', ''], ['group', 'show', ''], ['group', 'create', 'g', 'a', 'b', '']]) {
    await complete(words, seen)
  }
  t.same(kinds, [['volume', undefined], ['point', 'disk'], ['point', 'disk'], ['point', 'disk'], ['group', undefined], ['volume', undefined]])
})

t.test('bash', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-completion-'))
  t.teardown(() => { rmSync(folder, { recursive: true, force: true }) })
  const command = join(folder, 'nbdelta')
  writeFileSync(join(folder, 'completion'), COMPLETION_SCRIPTS.bash!)
  writeFileSync(join(folder, 'answer'), encodeCompletion(await complete(['volume', 'show', 'd'], lookup)))
  writeFileSync(command, `#!/bin/sh\nprintf '%s\\n' "$@" > ${folder}/asked\ncat ${folder}/answer\necho\n`)
  chmodSync(command, 0o755)
  const run = spawnSync('bash',
    ['-c', `source ${folder}/completion; COMP_WORDS=(${command} volume show d); COMP_CWORD=3; _nbdelta; `
    + `printf '%s\\n' "\${COMPREPLY[@]}"; cat ${folder}/asked`], { encoding: 'utf8' })
  t.equal(run.stderr, '')
  t.same(run.stdout.trim().split('\n'), ['disk', 'db\\ one', '__complete', 'volume', 'show', 'd'])
})
