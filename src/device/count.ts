/** Numbers of things in messages: `1 region`, `2 regions`. What is never one (limits, sizes in sectors) needs it not. */
export function count(number: number, noun: string, nouns = `${noun}s`): string {
  return `${number} ${number === 1 ? noun : nouns}`
}
