/** The shape of a recorded client: for each of its connections the bytes it sent, and the outcome that replay must tell. */
export interface Recording {
  readonly client: string
  readonly connections: readonly {
    /** Lines of hex. */
    readonly hex: readonly string[]
    readonly outcome: readonly string[]
  }[]
}
