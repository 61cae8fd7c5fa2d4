/**
 * What is asked of each host beside its installation: whether the package can run there, and what could spoil the node's
 * next start. An agent that does not tell its surroundings is an older one, and blocks by its version already.
 */
import type { PackageInfo } from '../action.ts';
import { block, pass, result } from '../check-result.ts';
import type { NodeFacts } from '../facts.ts';
import type { Finding } from '../judge.ts';
import type { CheckResult } from '../plan.ts';
import { RELEASE } from '../release.ts';
import { isCheckCode } from './catalog.ts';
import { takesPackage } from './package-kinds.ts';
import { checkSpace, type Stage } from './space.ts';

/** KWDB, like CockroachDB, wants clocks within half a second; beyond this, times on hosts cannot be compared at all. */
const CLOCK_SKEW_WARN_MS = 2_000;
const DAY_MS = 86_400_000;
/** A certificate that ends so soon is told of, so that an upgrade does not hide what ends with it. */
export const CERTIFICATE_WARN_MS = 30 * DAY_MS;

type Reported = Pick<NodeFacts, 'node' | 'report'>;

/** Every check of one host. `pkg`: what is to be installed, where something is. */
export function checkHost(facts: NodeFacts, pkg: PackageInfo | undefined): CheckResult[] {
  return [
    checkPrivileges(facts),
    checkAgentVersion(facts),
    ...checkClock(facts),
    ...checkGlibc(facts, pkg),
    ...checkPorts(facts),
    ...checkCertificates(facts),
    ...checkRestarters(facts),
    ...(pkg === undefined ? [] : [...checkImage(facts, pkg, 'planned'), ...checkSpace(facts, pkg)]),
  ];
}

/**
 * What of this speaks against taking the node down now. The agent asks it of a fresh look, right before it does: between
 * a plan and its last node there may be days. The package lies on the host by then. Unknown blocks, as in a plan.
 */
export function judgeHost(facts: Reported, pkg: PackageInfo | undefined): Finding[] {
  return [
    ...checkPorts(facts),
    ...checkCertificates(facts),
    ...(pkg === undefined ? [] : [...checkImage(facts, pkg, 'fetched'), ...checkSpace(facts, pkg, 'fetched')]),
  ].flatMap(({ verdict, code, message }) =>
    (verdict === 'block' || verdict === 'unknown') && isCheckCode(code) ? [{ code, severity: 'block', message }] : [],
  );
}

function checkPrivileges({ node, report: { host } }: Reported): CheckResult {
  if (host.privileges === 'none') {
    return block('PRIVILEGES_MISSING', 'its agent is neither root nor has it sudo', node);
  }
  return pass('PRIVILEGES_MISSING', `its agent works as root (${host.privileges})`, node);
}

/** Agent and controller are made to work together when both are of one release line: `MAJOR.MINOR` is the same. */
function checkAgentVersion({ node, report: { host } }: Reported): CheckResult {
  const line = (version: string) => /^\d+\.\d+(?=\.)/.exec(version)?.[0];
  const { agentVersion } = host;
  if (line(agentVersion) === line(RELEASE)) return pass('AGENT_INCOMPATIBLE', `its agent is ${agentVersion}`, node);
  return block('AGENT_INCOMPATIBLE', `its agent is ${agentVersion.slice(0, 40)}, the controller ${RELEASE}`, node);
}

function checkClock({ node, clockSkewMs }: NodeFacts): CheckResult[] {
  if (Math.abs(clockSkewMs) <= CLOCK_SKEW_WARN_MS) return [];
  return [result('warn', 'CLOCK_SKEW', `its clock is ${clockSkewMs} ms off the controller's`, node)];
}

/** A package that names no glibc says nothing against the host: nobody is blocked by silence. */
function checkGlibc({ node, report: { host } }: Reported, pkg: PackageInfo | undefined): CheckResult[] {
  if (pkg === undefined || pkg.kind !== 'bare') return [];
  const has = host.surroundings?.glibc;
  if (pkg.glibc === undefined) return [pass('GLIBC_TOO_OLD', 'the package names no glibc that it needs', node)];
  if (has === undefined) {
    return [result('unknown', 'GLIBC_TOO_OLD', `the package needs glibc ${pkg.glibc}, the host tells none`, node)];
  }
  if (compareDotted(has, pkg.glibc) < 0) {
    return [block('GLIBC_TOO_OLD', `it has glibc ${has}, the package needs ${pkg.glibc}`, node)];
  }
  return [pass('GLIBC_TOO_OLD', `glibc ${has}, the package needs ${pkg.glibc}`, node)];
}

function compareDotted(a: string, b: string): number {
  const [left, right] = [a, b].map((text) => text.split('.').map(Number)) as [number[], number[]];
  for (let at = 0; at < Math.max(left.length, right.length); at++) {
    const difference = (left[at] ?? 0) - (right[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function checkPorts({ node, report: { host } }: Reported): CheckResult[] {
  const { surroundings } = host;
  if (surroundings === undefined) return [];
  if (surroundings.takenPorts.length === 0) {
    return [pass('PORT_TAKEN', "nobody else listens on the database's ports", node)];
  }
  return surroundings.takenPorts.map(({ port, program }) =>
    block('PORT_TAKEN', `${program ?? 'another program'} listens on port ${port}, which is the database's`, node),
  );
}

/** By the host's own clock, as the database asks it. */
function checkCertificates({ node, report: { host, installation } }: Reported): CheckResult[] {
  const { surroundings } = host;
  if (surroundings === undefined || installation === undefined || installation.security === 'insecure') return [];
  const { certificates } = surroundings;
  if (certificates.length === 0) {
    return [result('warn', 'CERTIFICATE_EXPIRY', 'its agent can read no certificate of the database', node)];
  }
  const ending = certificates.filter(({ expiresAtMs }) => expiresAtMs - host.clockMs < CERTIFICATE_WARN_MS);
  if (ending.length === 0)
    return [pass('CERTIFICATE_EXPIRY', 'its certificates are valid for more than 30 days', node)];
  return ending.map(({ file, expiresAtMs }) => {
    const leftMs = expiresAtMs - host.clockMs;
    const days = Math.floor(Math.abs(leftMs) / DAY_MS);
    if (leftMs <= 0) return block('CERTIFICATE_EXPIRY', `${file} expired ${days} days ago`, node);
    return result('warn', 'CERTIFICATE_EXPIRY', `${file} expires in ${days} days`, node);
  });
}

/** What would start a stopped database by itself makes a mess of an upgrade: a person decides, so it is a warning. */
function checkRestarters({ node, report: { host } }: Reported): CheckResult[] {
  const { surroundings } = host;
  if (surroundings === undefined) return [];
  const found = surroundings.restarters.map(({ where, what }) =>
    result('warn', 'RESTARTER_FOUND', `${where}: ${what}`, node),
  );
  if (found.length > 0) return found;
  const { unread } = surroundings;
  const blind = unread.length === 0 ? '' : `; not readable by its agent: ${unread.join(', ')}`;
  return [pass('RESTARTER_FOUND', `no cron job, timer or configuration management minds the service${blind}`, node)];
}

/**
 * An image by digest must be on the host, or its registry must have said that it gives it. Once it was fetched it must be
 * there: one that somebody removed since would be pulled while the node is down.
 */
function checkImage({ node, report }: Reported, pkg: PackageInfo, stage: Stage): CheckResult[] {
  const method = report.installation?.method;
  if (method === undefined || !takesPackage(method, pkg.kind)) return [];
  if (pkg.kind === 'container' || pkg.kind === 'image-archive') {
    return [pass('IMAGE_UNAVAILABLE', `${pkg.fileName} holds the image itself: nothing is pulled`, node)];
  }
  if (pkg.kind !== 'image') return [];
  const known = report.host.surroundings?.images.find(({ digest }) => digest === pkg.sha256);
  if (known === undefined) {
    return [result('unknown', 'IMAGE_UNAVAILABLE', `its agent does not tell whether ${pkg.fileName} can be had`, node)];
  }
  const { state, detail } = known;
  switch (state) {
    case 'present':
      return [pass('IMAGE_UNAVAILABLE', `${pkg.fileName} is on the host`, node)];
    case 'pullable':
      return stage === 'planned'
        ? [pass('IMAGE_UNAVAILABLE', `${pkg.fileName} is pulled before anything is stopped: ${detail}`, node)]
        : [block('IMAGE_UNAVAILABLE', `${pkg.fileName} was fetched, and is gone from the host`, node)];
    case 'unavailable':
      return [block('IMAGE_UNAVAILABLE', `${pkg.fileName} is not there and cannot be pulled: ${detail}`, node)];
    default:
      return state satisfies never;
  }
}
