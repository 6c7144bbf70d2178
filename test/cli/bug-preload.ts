/** For `node --import`: a bug on SIGUSR2, of the kind that the environment names. Nothing of it is in the server. */
const BUGS: Readonly<Record<string, () => void>> = {
  rejection: () => { void Promise.reject(new Error('a planted rejection')) },
  exception: () => { throw new TypeError('a planted exception') },
  // eslint-disable-next-line prefer-promise-reject-errors
  text: () => { void Promise.reject('just a word') },
}
process.on('SIGUSR2', () => { BUGS[process.env.PLANTED_BUG ?? '']?.() })
