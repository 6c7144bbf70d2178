// Files beside a store, images and deltas, when the power fails: whole or not there (file-story.ts).
import { fileTale } from './file-story.js'
import { testLives } from './lives-test.js'

testLives(fileTale, { stories: 3, states: 20 })
