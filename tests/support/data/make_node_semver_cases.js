// Writes node_semver_cases.json: what npm's own `semver` package makes of a few hundred ranges.
//
//   cd $(mktemp -d) && npm pack semver && tar xzf semver-*.tgz
//   node make_node_semver_cases.js "$PWD/package" > node_semver_cases.json
//
// The ranges are drawn from the grammar of `turnout.routing.selection.ranges` with a fixed seed. Left out is where that module
// says that it departs from npm's code: alternatives beside `*`, and prereleases of 0.0.0 (among the versions).

const semver = require(process.argv[2])
const { version: release } = require(process.argv[2] + '/package.json')

let state = 20240607
const random = () => {
  // mulberry32
  state = (state + 0x6d2b79f5) | 0
  let t = Math.imul(state ^ (state >>> 15), 1 | state)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}
const pick = (list) => list[Math.floor(random() * list.length)]

const NUMBERS = ['0', '0', '1', '1', '2', '3', '10']
const PRERELEASES = ['0', '1', 'rc', 'rc.1', 'rc.2', 'rc.10', 'alpha', 'beta.2', 'a-b', '-', '1a']
const version = () =>
  [0, 1, 2].map(() => pick(NUMBERS)).join('.') + (random() < 0.5 ? '-' + pick(PRERELEASES) : '')

const partial = () => {
  const parts = []
  for (let n = pick([1, 2, 3, 3]); n > 0; n--) {
    const open = parts.length && 'xX*'.includes(parts.at(-1))
    parts.push(open || random() < 0.12 ? pick(['x', 'X', '*']) : pick(NUMBERS))
  }
  let text = parts.join('.')
  if (parts.length === 3 && !'xX*'.includes(parts[2])) {
    if (random() < 0.4) text += '-' + pick(PRERELEASES)
    if (random() < 0.1) text += '+build.7'
  }
  return (random() < 0.05 ? 'v' : '') + text
}
const comparator = () => {
  const sign = pick(['', '', '<', '<=', '>', '>=', '=', '^', '^', '~', '~'])
  return sign + (sign && random() < 0.1 ? ' ' : '') + partial()
}
const alternative = () =>
  random() < 0.15
    ? `${partial()} - ${partial()}`
    : Array.from({ length: pick([1, 1, 1, 2, 2, 3]) }, comparator).join(random() < 0.9 ? ' ' : '  ')
const range = () => Array.from({ length: pick([1, 1, 1, 2, 3]) }, alternative).join(pick(['||', ' || ']))

// One character put in, taken out or doubled.
const spoiled = () => {
  const text = range()
  const at = Math.floor(random() * text.length)
  return text.slice(0, at) + pick(['', '.', '-', '01', '<', '^', 'a', ' - ', '_', '.1', text[at]]) + text.slice(at + pick([0, 1]))
}

const versions = [...new Set(Array.from({ length: 110 }, version))].filter((v) => !v.startsWith('0.0.0-'))
versions.sort(semver.compare)

const cases = new Map()
while (cases.size < 320) {
  const text = range()
  const parsed = new semver.Range(text)
  if (text.includes('||') && parsed.set.some((set) => set.length === 1 && set[0].value === '')) continue
  const satisfied = versions.filter((v) => parsed.test(v))
  if (satisfied.length || random() < 0.15) cases.set(text, satisfied)
}
const refused = new Set()
while (refused.size < 120) {
  const text = spoiled()
  if (text === text.trim() && semver.validRange(text) === null) refused.add(text)
}

const lines = (items) => items.map((item) => '    ' + JSON.stringify(item)).join(',\n')
console.log(`{
  "made": "by make_node_semver_cases.js from npm's semver ${release}",
  "versions": ${JSON.stringify(versions)},
  "cases": [
${lines([...cases].map(([text, satisfied]) => ({ range: text, satisfied_by: satisfied })))}
  ],
  "refused": [
${lines([...refused])}
  ]
}`)
