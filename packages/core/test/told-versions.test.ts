import { describe, expect, it } from 'vitest';
import { judgeInstalled, tellsVersion } from '../src/index.ts';
import { allAt, codesOf, draft, fleet, installation, name, serving, withReport } from './builders.ts';

describe('what a binary or a database tells of its version', () => {
  it.each([
    ['V3.1.0', '3.1.0', true],
    ['V3.1.0', '3.1.0-hotfix1', true],
    ['3.1.0-hotfix1', '3.1.0-hotfix1', true],
    ['3.1.0-hotfix2', '3.1.0-hotfix1', false],
    ['3.1.0-hotfix1', '3.1.0', false],
    ['V3.0.0', '3.1.0', false],
    ['NULL', '3.1.0', false],
  ])('%s fits %s: %s', (told, version, fits) => {
    expect(tellsVersion(told, version)).toBe(fits);
  });

  it('may lack the extension, but .version may not', () => {
    const versions = { ...allAt('3.1.0'), recorded: '3.1.0 hotfix1' };
    const whole = serving('3.1.0', { installation: installation({ versions }) });
    expect(judgeInstalled(whole, '3.1.0-hotfix1')).toEqual([]);
    const behind = serving('3.1.0', { installation: installation({ versions: allAt('3.1.0') }) });
    expect(judgeInstalled(behind, '3.1.0-hotfix1').map(({ code }) => code)).toEqual(['VERIFY_WRONG_VERSION']);
  });
});

describe('two agents that speak for one node', () => {
  it('block a plan, and both are named', () => {
    const nodes = withReport(fleet('multi-replica', 3), 2, ({ identity }) => ({
      identity: { clusterId: identity?.clusterId ?? '', kwdbId: 1 },
    }));
    const { checks, blocked } = draft(nodes);
    expect(blocked).toBe(true);
    expect(codesOf(checks, 'block')).toContain('NODE_DUPLICATE');
    expect(checks.find(({ code }) => code === 'NODE_DUPLICATE')?.message).toContain(`${name(1)} and ${name(2)}`);
  });
});
