/**
 * What tells the URI of a remote image from a path: a scheme and two slashes. Which schemes there are, and what stands behind
 * them, is the matter of whoever opens it. A file of such a name is written ./NAME.
 */
const URI = /^[a-z][a-z0-9+.-]*:\/\//i

export function isUri(text: string): boolean { return URI.test(text) }
