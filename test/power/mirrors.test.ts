// A mirror, to a volume of the same store or to a peer's, when the power fails at both or at one of them (mirror-story.ts).
import { testLives } from './lives-test.js'
import { mirrorTale } from './mirror-story.js'

testLives(mirrorTale, { stories: 1, states: 20 })
