#!/usr/bin/env node
// Plain JavaScript on purpose: it must still run, and say what is wrong, on a Node too old to strip types.
const NEEDED = [22, 19];
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);

if (major < NEEDED[0] || (major === NEEDED[0] && minor < NEEDED[1])) {
  process.stderr.write(
    `kwfleet: needs Node.js ${NEEDED.join('.')} or newer and was started with ${process.versions.node}. ` +
      'Install a newer one (https://nodejs.org); in a checkout, run `npm ci` and start it with `npx kwfleet`.\n',
  );
  process.exitCode = 1;
} else {
  const { main } = await import('../src/main.ts');
  process.exitCode = await main(process.argv.slice(2));
}
