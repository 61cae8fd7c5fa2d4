/** The end of `npm test`: which suites it left out, and why. */
import { spawnSync } from 'node:child_process';
import { probeLab } from '../lab/host.ts';

const lab = await probeLab();
console.log('Not run by npm test:');
console.log(
  lab.ok
    ? '  lab: whole upgrades on test hosts with systemd; this machine can: npm run lab'
    : `  lab: whole upgrades on test hosts with systemd; this machine cannot: ${lab.reason}`,
);
if (spawnSync('promtool', ['--version']).status !== 0) {
  console.log('  alert rules: there is no promtool on this machine (Debian: prometheus)');
}
console.log('  simulate: as many seeds as you like; npm test runs a few: npm run simulate -- --seeds 1..10000');
