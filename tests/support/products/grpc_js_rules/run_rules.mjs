import * as rules from './rules.mjs';

const [address, ...includeDirs] = process.argv.slice(2);
rules.load(includeDirs);
const outcomes = {};
for (const [name, rule] of Object.entries(rules)) {
  if (name === 'load') continue;
  try {
    await rule(address);
    outcomes[name] = '';
  } catch (error) {
    outcomes[name] = String(error.stack ?? error);
  }
}
process.stdout.write(JSON.stringify(outcomes));
