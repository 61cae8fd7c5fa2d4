import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';

const MONITORING = join(import.meta.dirname, '../../monitoring');
const isThere = spawnSync('promtool', ['--version']).status === 0;

describe('the alert rules', () => {
  beforeEach((context) => {
    if (isThere) return;
    if (process.env.KWFLEET_REQUIRE_PROMTOOL) throw new Error('promtool is required and is not on this machine');
    context.skip('no promtool on this machine (Debian: prometheus)');
  });

  it('are rules', () => {
    const said = execFileSync('promtool', ['check', 'rules', 'kwfleet-alerts.yml'], {
      cwd: MONITORING,
      encoding: 'utf8',
    });
    expect(said).toContain('SUCCESS');
  });

  it('fire when they should, and are silent when they should be', () => {
    const said = execFileSync('promtool', ['test', 'rules', 'kwfleet-alerts.test.yml'], {
      cwd: MONITORING,
      encoding: 'utf8',
    });
    expect(said).toContain('SUCCESS');
  });
});
