/** Names for what is made without being named by anybody: points of imports, mirrors and schedules, volumes for a while. */

/** The stem, or the first of `STEM.2`, `STEM.3`, ... that nobody has: one of an earlier attempt may have it still. */
export function freeName(stem: string, isTaken: (name: string) => boolean, separator = '.'): string {
  let name = stem
  for (let again = 2; isTaken(name); again++) name = `${stem}${separator}${again}`
  return name
}

/** Likewise, among the points of a volume. */
export function freePointName(
  { points }: { readonly points: { get(name: string): unknown } }, stem: string, separator?: string,
): string {
  return freeName(stem, name => points.get(name) !== undefined, separator)
}
