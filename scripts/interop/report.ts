/**
 * Steps of a long interop run, one line each, and the same last line as the test run prints: `N passed, N failed, N skipped`.
 * The quick tests hand in tap instead: whoever takes steps asks only for `Check`.
 */

/** Runs one step; false if it failed (and then it has been reported), so that what depends on it can be left out. */
export type Check = (title: string, step: () => Promise<unknown>) => Promise<boolean>

export class Report {
  readonly #began = Date.now()
  #passed = 0
  #failed = 0
  #skipped = 0

  readonly check: Check = async (title, step) => {
    const began = Date.now()
    try {
      await step()
      this.#passed++
      this.note(`ok       ${title}${Date.now() - began > 1000 ? ` (${((Date.now() - began) / 1000).toFixed(1)} s)` : ''}`)
      return true
    } catch (error) {
      this.#failed++
      this.note(`FAILED   ${title}: ${error instanceof Error ? error.message.trim().slice(-1500) : String(error)}`)
      return false
    }
  }

  /** A step whose outcome somebody else has judged. */
  judged(title: string, good: boolean): void {
    if (good) this.#passed++
    else this.#failed++
    this.note(`${good ? 'ok      ' : 'FAILED  '} ${title}`)
  }

  skip(title: string, why: string): void {
    this.#skipped++
    this.note(`SKIPPED  ${title}: ${why}`)
  }

  note(line: string): void {
    console.log(`[${((Date.now() - this.#began) / 1000).toFixed(1).padStart(6)}] ${line}`)
  }

  /** Prints the count; a run with a failure, or with nothing done and nothing skipped, exits 1. */
  end(): void {
    console.log(`${this.#passed} passed, ${this.#failed} failed, ${this.#skipped} skipped`)
    process.exitCode = this.#failed > 0 || this.#passed + this.#skipped === 0 ? 1 : 0
  }
}
