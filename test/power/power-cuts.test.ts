// A store on a file system that loses what no fsync covers, names as well as content: a story is recorded, and at every moment of it
// the power may fail. Whatever is left opens, and holds what was answered (DESIGN D1, D3, D4, D6).
import { testLives } from './lives-test.js'
import { storeTale } from './store-story.js'

testLives(storeTale, { stories: 3, states: 20 })
