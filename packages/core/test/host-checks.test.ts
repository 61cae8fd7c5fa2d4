import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CERTIFICATE_WARN_MS,
  CHECKS,
  type CheckResult,
  CLOCK_BLOCK_MS,
  CLOCK_LIMIT_MS,
  ERRORS,
  type HostFacts,
  RELEASE,
  type Surroundings,
} from '../src/index.ts';
import { draft, fleet, host, NOW, pkg, withReport } from './builders.ts';

const three = fleet('multi-replica', 3);
const MIB = 1024 * 1024;

const quiet: Surroundings = {
  glibc: '2.36',
  takenPorts: [],
  certificates: [],
  restarters: [],
  unread: [],
  disks: { agent: '1', install: '2', data: '3' },
  images: [],
};

/** What the plan says with a given code when node 2's host is otherwise. */
function told(code: string, change: Partial<HostFacts>, packaged: Parameters<typeof pkg>[0] = {}): CheckResult[] {
  const nodes = withReport(three, 2, () => ({ host: host(change) }));
  return draft(nodes, { packages: [pkg(packaged)] }).checks.filter(
    (check) => check.code === code && check.node === 'n2',
  );
}
const around = (change: Partial<Surroundings>): Partial<HostFacts> => ({ surroundings: { ...quiet, ...change } });
const verdicts = (checks: CheckResult[]) => checks.map(({ verdict }) => verdict);

describe('glibc', () => {
  it.each([
    ['2.36', '2.31', 'pass'],
    ['2.31', '2.31', 'pass'],
    ['2.31', '2.31.1', 'block'],
    ['2.9', '2.10', 'block'],
    ['3.0', '2.99', 'pass'],
    [undefined, '2.31', 'unknown'],
    ['2.17', undefined, 'pass'],
    [undefined, undefined, 'pass'],
  ])('the host has %s, the package needs %s: %s', (glibc, needed, verdict) => {
    const { glibc: _, ...rest } = quiet;
    const surroundings = glibc === undefined ? rest : { ...rest, glibc };
    expect(verdicts(told('GLIBC_TOO_OLD', { surroundings }, needed === undefined ? {} : { glibc: needed }))).toEqual([
      verdict,
    ]);
  });

  it('orders releases by their numbers', () => {
    const number = fc.integer({ min: 0, max: 999 });
    fc.assert(
      fc.property(number, number, number, number, (major, minor, otherMajor, otherMinor) => {
        const [verdict] = verdicts(
          told('GLIBC_TOO_OLD', around({ glibc: `${major}.${minor}` }), { glibc: `${otherMajor}.${otherMinor}` }),
        );
        const older = major < otherMajor || (major === otherMajor && minor < otherMinor);
        expect(verdict).toBe(older ? 'block' : 'pass');
      }),
    );
  });
});

describe('ports', () => {
  it('are free, or the databases own', () => expect(verdicts(told('PORT_TAKEN', around({})))).toEqual(['pass']));

  it('block when another program has them, which is named', () => {
    const [first, second] = told(
      'PORT_TAKEN',
      around({ takenPorts: [{ port: 8080, program: 'nginx' }, { port: 26257 }] }),
    );
    expect(first).toMatchObject({ verdict: 'block', message: expect.stringMatching(/^nginx .*8080/) });
    expect(second).toMatchObject({ verdict: 'block', message: expect.stringMatching(/^another program .*26257/) });
  });
});

describe('certificates', () => {
  const ending = (inMs: number) => around({ certificates: [{ file: 'node.crt', expiresAtMs: NOW + inMs }] });

  it.each([
    [CERTIFICATE_WARN_MS, 'pass'],
    [CERTIFICATE_WARN_MS - 1, 'warn'],
    [1, 'warn'],
    [0, 'block'],
    [-86_400_000, 'block'],
  ])('that end in %d ms: %s', (inMs, verdict) =>
    expect(verdicts(told('CERTIFICATE_EXPIRY', ending(inMs)))).toEqual([verdict]),
  );

  it("are judged by the host's own clock", () => {
    const behind = { ...ending(1), clockMs: NOW + 2 };
    expect(verdicts(told('CERTIFICATE_EXPIRY', behind))).toEqual(['block']);
  });

  it('are not asked of a node that uses none', () => {
    const nodes = withReport(three, 2, ({ installation }) => ({
      host: host(ending(-1)),
      ...(installation === undefined ? {} : { installation: { ...installation, security: 'insecure' as const } }),
    }));
    expect(draft(nodes).checks.filter(({ code }) => code === 'CERTIFICATE_EXPIRY')).toEqual([]);
  });
});

describe('what may start the database by itself', () => {
  it('warns with what was found', () => {
    const found = told(
      'RESTARTER_FOUND',
      around({ restarters: [{ where: '/etc/cron.d/watch', what: 'systemctl start kaiwudb' }] }),
    );
    expect(found).toMatchObject([{ verdict: 'warn', message: '/etc/cron.d/watch: systemctl start kaiwudb' }]);
  });

  it('passes, and says where the agent could not look', () => {
    expect(told('RESTARTER_FOUND', around({ unread: ['/var/spool/cron'] }))).toMatchObject([
      { verdict: 'pass', message: expect.stringContaining('/var/spool/cron') },
    ]);
  });
});

describe('agent and controller', () => {
  const [major = '', minor = ''] = RELEASE.split('.');
  it.each([
    [RELEASE, 'pass'],
    [`${major}.${minor}.99`, 'pass'],
    [`${major}.${minor}.7-rc1`, 'pass'],
    [`${major}.${Number(minor) + 1}.0`, 'block'],
    [`${major}.${minor}1.0`, 'block'],
    [`${Number(major) + 1}.${minor}.0`, 'block'],
    ['', 'block'],
    ['unknown', 'block'],
  ])('an agent of "%s": %s', (agentVersion, verdict) =>
    expect(verdicts(told('AGENT_INCOMPATIBLE', { agentVersion }))).toEqual([verdict]),
  );
});

describe('images', () => {
  const sha256 = 'e'.repeat(64);
  const known = (state: 'present' | 'unavailable') =>
    around({ images: [{ digest: sha256, state, detail: 'no route to host' }] });
  const image = { kind: 'image', sha256, family: 'any' } as const;

  it.each([
    ['present', known('present'), 'pass'],
    ['unavailable', known('unavailable'), 'block'],
    ['not told of', around({}), 'pass'],
  ] as const)('%s: %s', (_, facts, verdict) => {
    expect(verdicts(told('IMAGE_UNAVAILABLE', facts, image))).toEqual([verdict]);
  });
});

describe('space', () => {
  const sizes = { sizeBytes: 100 * MIB, unpackedBytes: 110 * MIB, installedBytes: 300 * MIB };
  const free = (agent: number, install: number, data: number) => ({
    freeBytes: { agent: agent * MIB, install: install * MIB, data: data * MIB },
  });
  /** Fetched, unpacked, kept copy and margin; new files and margin; room for the data. */
  const [agentNeed, installNeed, dataNeed] = [100 + 110 + 280 + 256, 300 + 256, 512];
  const installed = { installedBytes: 280 * MIB };

  it.each([
    [free(agentNeed, installNeed, dataNeed), 'pass'],
    [free(agentNeed - 1, 9e6, 9e6), 'block'],
    [free(9e6, installNeed - 1, 9e6), 'block'],
    [free(9e6, 9e6, dataNeed - 1), 'block'],
  ])('%j: %s', (freeBytes, verdict) =>
    expect(verdicts(told('DISK_FULL', { ...around(installed), ...freeBytes }, sizes))).toEqual([verdict]),
  );

  it('is added up for directories on one disk', () => {
    const disks = { agent: '7', install: '7', data: '7' };
    const all = agentNeed + installNeed + dataNeed;
    const onOne = (bytes: number) =>
      told('DISK_FULL', { ...around({ ...installed, disks }), ...free(bytes, bytes, bytes) }, sizes);
    expect(verdicts(onOne(all))).toEqual(['pass']);
    expect(verdicts(onOne(all - 1))).toEqual(['block']);
  });
});

describe('the clocks of the nodes', () => {
  const skewed = (...skewsMs: number[]) =>
    draft(three.map((facts, at) => ({ ...facts, clockSkewMs: skewsMs[at] ?? 0 }))).checks.filter(
      ({ code, node }) => code === 'CLOCK_SKEW' && node === undefined,
    );

  it.each([
    [[0, 0, 0], 'pass'],
    [[1_800, 1_800, 1_300], 'pass'],
    [[-250, CLOCK_LIMIT_MS - 250, 0], 'pass'],
    [[0, CLOCK_LIMIT_MS + 1, 0], 'warn'],
    [[-CLOCK_BLOCK_MS / 2, 0, CLOCK_BLOCK_MS / 2], 'warn'],
    [[-CLOCK_BLOCK_MS, 0, 1], 'block'],
  ])('off by %j: %s', (skews, verdict) => expect(verdicts(skewed(...skews))).toEqual([verdict]));

  it('are compared where there are two', () =>
    expect(draft(fleet('standalone', 1)).checks.map(({ code }) => code)).not.toContain('CLOCK_SKEW'));
});

it('every check has a remedy, and says when it speaks', () => {
  for (const [code, entry] of Object.entries(CHECKS)) {
    expect(ERRORS, code).toHaveProperty(code);
    expect('blocks' in entry || 'warns' in entry, code).toBe(true);
  }
});
