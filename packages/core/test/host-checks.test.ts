import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkSpace } from '../src/checks/space.ts';
import {
  CERTIFICATE_WARN_MS,
  CHECKS,
  type CheckResult,
  CLOCK_BLOCK_MS,
  CLOCK_LIMIT_MS,
  ERRORS,
  type HostFacts,
  judgeHost,
  type Method,
  type NodeFacts,
  type PackageInfo,
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

describe('glibc of what is not installed from packages', () => {
  it('is not asked: an image brings its own', () => {
    expect(told('GLIBC_TOO_OLD', around({ glibc: '2.17' }), { kind: 'container', glibc: '2.31' })).toEqual([]);
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

  it('block when it is one of them', () =>
    expect(verdicts(told('PORT_TAKEN', around({ takenPorts: [{ port: 26257 }] })))).toEqual(['block']));
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

  it('that the agent cannot read are not taken for good ones', () => {
    expect(told('CERTIFICATE_EXPIRY', around({}))).toMatchObject([
      { verdict: 'warn', message: expect.stringContaining('can read no certificate') },
    ]);
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
  type State = Surroundings['images'][number]['state'];
  const known = (state: State, digest = sha256) => ({ images: [{ digest, state, detail: 'no route to host' }] });
  const image = pkg({ kind: 'image', sha256, family: 'any' });
  const facts = (change: Partial<Surroundings>, method: Method = 'docker-run') => {
    const [first] = withReport(fleet('standalone', 1), 1, ({ installation }) => ({
      host: host(around(change)),
      ...(installation === undefined ? {} : { installation: { ...installation, method } }),
    }));
    if (first === undefined) throw new Error('no node');
    return first;
  };
  const untold: Partial<Surroundings> = { images: [] };
  const answers = (change: Partial<Surroundings>, wanted = image, method?: Method) =>
    draft([facts(change, method)], { packages: [wanted] }).checks.filter(({ code }) => code === 'IMAGE_UNAVAILABLE');
  const lateAnswers = (change: Partial<Surroundings>) =>
    judgeHost(facts(change), image).filter(({ code }) => code === 'IMAGE_UNAVAILABLE');

  it.each([
    ['present', known('present'), 'pass'],
    ['pullable', known('pullable'), 'pass'],
    ['unavailable', known('unavailable'), 'block'],
    ['not told of', untold, 'unknown'],
    ['told of another', known('present', 'f'.repeat(64)), 'unknown'],
  ] as const)('%s: %s', (_, change, verdict) => expect(verdicts(answers(change))).toEqual([verdict]));

  it('say why', () => expect(answers(known('unavailable'))[0]?.message).toContain('no route to host'));

  it('of an agent that tells no surroundings are unknown', () => {
    const [node] = fleet('standalone', 1);
    const report = { ...facts({}).report, host: host({}) };
    const checks = draft([{ ...(node as NodeFacts), report }], { packages: [image] }).checks;
    expect(verdicts(checks.filter(({ code }) => code === 'IMAGE_UNAVAILABLE'))).toEqual(['unknown']);
  });

  it.each([
    ['present', known('present'), 0],
    ['only to be pulled again', known('pullable'), 1],
    ['gone for good', known('unavailable'), 1],
    ['not told of', untold, 1],
  ] as const)('right before the node goes down, %s', (_, change, findings) =>
    expect(lateAnswers(change)).toHaveLength(findings),
  );

  it.each(['container', 'image-archive'] as const)('that come in their package need no registry: %s', (kind) => {
    const [answer, ...others] = answers(untold, pkg({ kind, family: 'any' }));
    expect(answer).toMatchObject({ verdict: 'pass', message: expect.stringContaining('holds the image itself') });
    expect(others).toEqual([]);
  });

  it.each([
    ['compose', 'pass'],
    ['docker-run', 'pass'],
    ['script-container', 'block'],
    ['script-bare', 'block'],
    ['source', 'block'],
  ] as const)('by their file are for containers that people run: %s, %s', (method, verdict) => {
    const packages = [pkg({ kind: 'image-archive', family: 'any' })];
    const fit = draft([facts(untold, method)], { packages }).checks.filter(({ code }) => code === 'METHOD_MISMATCH');
    expect(verdicts(fit)).toEqual([verdict]);
  });

  it('are not asked of a host that runs none', () => {
    expect(answers(untold, image, 'script-bare')).toEqual([]);
    expect(answers(untold, image, 'script-container')).toEqual([]);
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
    // What is asked of each place in turn may differ meanwhile: the least counts.
    const grown = { ...around({ ...installed, disks }), ...free(all, all - 1, all) };
    expect(verdicts(told('DISK_FULL', grown, sizes))).toEqual(['block']);
  });

  it.each([
    // Unpacked files take three times the room; as much is kept of the version that is there.
    ['bare', 100 + 110 + 330 + 256, 330 + 256],
    ['tree', 100 + 110 + 110 + 256, 110 + 256],
  ] as const)('where nobody tells how large the files of a %s package are, is reckoned', (kind, agent, install) => {
    const untold = { sizeBytes: 100 * MIB, unpackedBytes: 110 * MIB, kind };
    const verdict = (...bytes: [number, number, number]) =>
      verdicts(told('DISK_FULL', { ...around({}), ...free(...bytes) }, untold));
    expect(verdict(agent, install, 512)).toEqual(['pass']);
    expect(verdict(agent - 1, install, 512)).toEqual(['block']);
    expect(verdict(agent, install - 1, 512)).toEqual(['block']);
  });
});

describe('space for an image, where the engine keeps its images', () => {
  const digest = 'a'.repeat(64);
  const image = (kind: PackageInfo['kind'], installedBytes?: number) =>
    pkg({
      kind,
      sha256: digest,
      family: 'any',
      sizeBytes: kind === 'image' ? 0 : 400 * MIB,
      unpackedBytes: kind === 'container' ? 450 * MIB : 0,
      ...(installedBytes === undefined ? {} : { installedBytes: installedBytes * MIB }),
    });
  const runs = { installedBytes: 300 * MIB };
  /** How much must be free there, in MiB, by trying. */
  const needed = (packaged: PackageInfo, around_: Partial<Surroundings>, stage: 'planned' | 'fetched') => {
    const verdict = (install: number) => {
      const change = { ...around(around_), freeBytes: { agent: 9e12, install: install * MIB, data: 9e12 } };
      const node = { node: 'n1', report: { ...(three[0] as NodeFacts).report, host: host(change) } };
      return checkSpace(node, packaged, stage)[0]?.verdict;
    };
    let need = 0;
    while (verdict(need) === 'block') need++;
    return need;
  };

  const asked = (state: 'present' | 'pullable'): Partial<Surroundings> => ({
    ...runs,
    images: [{ digest, state, detail: '' }],
  });

  it.each<[PackageInfo['kind'], number | undefined, Partial<Surroundings>, number, number]>([
    ['container', 320, runs, 2 * 320 + 256, 320 + 256],
    ['image-archive', 320, runs, 2 * 320 + 256, 256],
    // Added by a release that did not look: its file says it, or the image that runs, if that is larger.
    ['image-archive', undefined, runs, 2 * 400 + 256, 256],
    ['image-archive', undefined, { installedBytes: 500 * MIB }, 2 * 500 + 256, 256],
    ['image', undefined, runs, 2 * 300 + 256, 256],
    ['image', undefined, {}, 256, 256],
    ['image', undefined, asked('pullable'), 2 * 300 + 256, 256],
    ['image', undefined, asked('present'), 256, 256],
  ])('%s of %s MiB', (kind, size, around_, planned, fetched) => {
    expect(needed(image(kind, size), around_, 'planned')).toBe(planned);
    expect(needed(image(kind, size), around_, 'fetched')).toBe(fetched);
  });

  it('and none where packages are kept: the image from before stays with the engine', () => {
    const free = (agent: number) => ({
      ...around({ installedBytes: 90_000 * MIB }),
      freeBytes: { agent: agent * MIB, install: 9e12, data: 9e12 },
    });
    const [node] = withReport(three, 1, () => ({ host: host(free(400 + 450 + 256)) }));
    expect(checkSpace(node as NodeFacts, image('container', 320))).toMatchObject([{ verdict: 'pass' }]);
    const [less] = withReport(three, 1, () => ({ host: host(free(400 + 450 + 255)) }));
    expect(checkSpace(less as NodeFacts, image('container', 320))).toMatchObject([{ verdict: 'block' }]);
  });
});

describe('what an agent asks of its host right before it takes the node down', () => {
  const sizes = pkg({ sizeBytes: 100 * MIB, unpackedBytes: 110 * MIB, installedBytes: 300 * MIB });
  const judged = (change: Partial<HostFacts>, packaged: ReturnType<typeof pkg> | undefined = sizes) => {
    const [facts] = withReport(three, 1, () => ({ host: host(change) }));
    if (facts === undefined) throw new Error('no node');
    return judgeHost(facts, packaged).map(({ code }) => code);
  };

  it('finds nothing on a quiet host', () => expect(judged(around({}))).toEqual([]));

  it('finds a port that another program has, and a certificate that is over', () => {
    const spoilt = around({
      takenPorts: [{ port: 26257 }],
      certificates: [{ file: 'node.crt', expiresAtMs: NOW - 1 }],
    });
    expect(judged(spoilt)).toEqual(['PORT_TAKEN', 'CERTIFICATE_EXPIRY']);
  });

  it('is not barred by a warning', () => {
    expect(judged(around({ certificates: [{ file: 'node.crt', expiresAtMs: NOW + 1 }] }))).toEqual([]);
  });

  it('asks no room for the package itself, which lies there by then', () => {
    const kept = { ...around({ installedBytes: 280 * MIB }) };
    const free = (agent: number) => ({ ...kept, freeBytes: { agent, install: 1e12, data: 1e12 } });
    expect(judged(free((280 + 256) * MIB))).toEqual([]);
    expect(judged(free((280 + 256) * MIB - 1))).toEqual(['DISK_FULL']);
    expect(
      judgeHost({ node: 'n1', report: { ...(three[0] as NodeFacts).report, host: host(free(0)) } }, undefined),
    ).toEqual([]);
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

  it('warn of the one that is off, behind or ahead', () => {
    for (const [skewMs, verdict] of [
      [-2_001, ['warn']],
      [-2_000, []],
      [2_000, []],
      [2_001, ['warn']],
    ] as const) {
      const { checks } = draft(three.map((facts) => ({ ...facts, clockSkewMs: skewMs })));
      const one = checks.filter(({ code, node }) => code === 'CLOCK_SKEW' && node === 'n2');
      expect([skewMs, verdicts(one)]).toEqual([skewMs, verdict]);
    }
  });

  it('of an agent that is gone is old news', () => {
    const gone = three.map((facts, at) => ({ ...facts, connected: at > 0, clockSkewMs: at > 0 ? 0 : 60_000 }));
    const { checks } = draft(gone);
    expect(verdicts(checks.filter(({ code, node }) => code === 'CLOCK_SKEW' && node === undefined))).toEqual(['pass']);
  });

  it('are compared where there are two', () =>
    expect(draft(fleet('standalone', 1)).checks.map(({ code }) => code)).not.toContain('CLOCK_SKEW'));
});

it('every check has a remedy, and says when it speaks', () => {
  for (const [code, entry] of Object.entries(CHECKS)) {
    expect(ERRORS, code).toHaveProperty(code);
    expect('blocks' in entry || 'warns' in entry, code).toBe(true);
  }
});
