/**
 * Judgements over what was observed. The planner, the controller's gates, the interlock on the host and the
 * verification after a start all ask these, so that "healthy" and "upgraded" mean one thing everywhere. Each
 * returns what speaks against; an empty list means yes. What is unknown speaks against.
 */
import type { ErrorCode } from './errors.ts';
import type { ClusterHealth, Installation, Method, NodeReport, NodeRow } from './facts.ts';
import { isVersion, sameVersion, tellsVersion } from './version.ts';

export type Finding = {
  readonly code: ErrorCode;
  readonly severity: 'block' | 'warn';
  readonly message: string;
  /** The database's id of the node it is about, where it is about one. */
  readonly kwdbId?: number;
};

const block = (code: ErrorCode, message: string, kwdbId?: number): Finding => ({
  code,
  severity: 'block',
  message,
  ...(kwdbId === undefined ? {} : { kwdbId }),
});

/** A node the database has finished removing is no member any more; every other row is. */
export function members(rows: readonly NodeRow[]): NodeRow[] {
  return rows.filter((row) => !(row.isDecommissioning && !row.isLive));
}

function judgeRow(row: NodeRow | undefined, kwdbId: number): Finding[] {
  if (row === undefined) return [block('NODE_MISSING', `the database does not list node ${kwdbId}`, kwdbId)];
  if (!row.isLive) return [block('NODE_NOT_LIVE', `node ${kwdbId} is not live`, kwdbId)];
  if (!row.isAvailable) {
    return [block('NODE_NOT_AVAILABLE', `node ${kwdbId} is not available: it is marked upgrading, or leaving`, kwdbId)];
  }
  if (row.isDecommissioning) return [block('NODE_NOT_AVAILABLE', `node ${kwdbId} is being decommissioned`, kwdbId)];
  if (row.isDraining) return [block('NODE_NOT_AVAILABLE', `node ${kwdbId} is draining`, kwdbId)];
  return [];
}

/** Whether ranges are whole. `health` may lack the counts: then it is unknown, and unknown blocks. */
export function judgeRanges(health: ClusterHealth): Finding[] {
  const { rangesUnavailable, rangesUnderreplicated } = health;
  if (rangesUnavailable === undefined || rangesUnderreplicated === undefined) {
    return [block('HEALTH_UNKNOWN', 'the database did not say how many ranges are unavailable or under-replicated')];
  }
  const findings: Finding[] = [];
  if (rangesUnavailable > 0) findings.push(block('RANGES_UNAVAILABLE', `${rangesUnavailable} ranges are unavailable`));
  if (rangesUnderreplicated > 0) {
    findings.push(block('RANGES_UNDERREPLICATED', `${rangesUnderreplicated} ranges are under-replicated`));
  }
  return findings;
}

/** Whether every node of `expected` is live and available, and the database lists no other member. */
export function judgeMembers({ view }: ClusterHealth, expected: readonly number[]): Finding[] {
  const rows = new Map(members(view.nodes).map((row) => [row.kwdbId, row]));
  const strangers = [...rows.keys()].filter((id) => !expected.includes(id));
  return [
    ...expected.flatMap((id) => judgeRow(rows.get(id), id)),
    ...strangers.map((id) => block('NODE_MISSING', `the database lists node ${id}, which is not in the plan`, id)),
  ];
}

/**
 * Whether a multi-replica cluster can spare one node now: its nodes are all there, and all ranges have all their replicas.
 * Source: manual, "Upgrading Multi-Replica Clusters", preparing step 2, and the prerequisites of each node.
 */
export function judgeSpare(health: ClusterHealth, expected: readonly number[]): Finding[] {
  return [...judgeMembers(health, expected), ...judgeRanges(health)];
}

/**
 * The whole preparation of the manual for a multi-replica cluster: `judgeSpare`, no schema change or import running
 * (step 3), leases and clients spread over the nodes (steps 1 and 4: warnings, since both move by themselves).
 */
export function judgeCluster(health: ClusterHealth, expected: readonly number[]): Finding[] {
  return [...judgeSpare(health, expected), ...judgeJobs(health), ...judgeSpread(health, expected)];
}

/** Whether a schema change, an import or another job is under way. Source: manual, preparing step 3. */
export function judgeJobs(health: ClusterHealth): Finding[] {
  if (health.jobs === undefined) return [block('HEALTH_UNKNOWN', 'the database did not list its jobs')];
  return health.jobs.map((job) =>
    block('JOBS_RUNNING', `job ${job.id} (${job.type}, ${job.status}): ${job.description.slice(0, 120)}`),
  );
}

function judgeSpread(health: ClusterHealth, expected: readonly number[]): Finding[] {
  if (expected.length < 2) return [];
  const findings: Finding[] = [];
  if (health.leases === undefined) {
    findings.push(block('HEALTH_UNKNOWN', 'the database did not say where its leases are'));
  } else {
    const counts = health.leases.filter((lease) => lease.count > 0);
    const total = counts.reduce((sum, lease) => sum + lease.count, 0);
    const most = Math.max(0, ...counts.map((lease) => lease.count));
    if (total >= expected.length * 2 && (counts.length === 1 || most > total * 0.8)) {
      findings.push({ code: 'LEASES_UNEVEN', severity: 'warn', message: `one node holds ${most} of ${total} leases` });
    }
  }
  if (health.sessions === undefined) {
    findings.push(block('HEALTH_UNKNOWN', 'the database did not say where its clients are'));
  } else {
    const busy = health.sessions.filter((session) => session.count > 0);
    if (busy.length === 1) {
      findings.push({
        code: 'CLIENTS_ON_ONE_NODE',
        severity: 'warn',
        message: `all ${busy[0]?.count} client sessions are on node ${busy[0]?.kwdbId}`,
      });
    }
  }
  return findings;
}

/** The process that served before a restart, so that a new one can be told from it. */
export type ProcessMark = { readonly pid?: number | undefined; readonly startedAtMs?: number | undefined };

/**
 * Whether this node serves `target`: all four versions agree (`.version`, package, binary, `build`), the process is
 * another than `before`, and `/health?ready=1` answers. Neither deploy.sh's success line nor `is_live` is asked.
 * Source: KWDB facts, "`.version`, the package database, `kwbase version` and the `build` can all disagree".
 */
export function judgeServing(report: NodeReport, target: string, before: ProcessMark): Finding[] {
  const installed = judgeInstalled(report, target);
  const installation = report.installation;
  if (installation === undefined || installed.length > 0) return installed;
  const { unit, versions } = installation;
  if (unit.active !== 'active' || unit.mainPid === undefined) {
    return [block('NODE_NOT_RUNNING', `the service is ${unit.active}`)];
  }
  const samePid = unit.mainPid === before.pid && unit.startedAtMs === before.startedAtMs;
  if (before.pid !== undefined && samePid) {
    return [block('VERIFY_TIMEOUT', `process ${unit.mainPid} is still the one from before`)];
  }
  if (!report.serving) return [block('VERIFY_TIMEOUT', '/health does not answer')];
  if (!report.ready) return [block('VERIFY_TIMEOUT', '/health?ready=1 does not say that the node takes clients')];
  if (versions.running === undefined) return [block('VERSION_UNKNOWN', 'the node does not tell its build yet')];
  if (!tellsVersion(versions.running, target)) {
    return [block('VERIFY_WRONG_VERSION', `the running process is ${versions.running}, not ${target}`)];
  }
  return [];
}

type Place = 'recorded' | 'package' | 'binary';
type Versions = Installation['versions'];

const PLACE_NAMES: Readonly<Record<Place, string>> = { recorded: '.version', package: 'package', binary: 'binary' };

/**
 * Where a deployment method must tell its version without the database. What else it tells must fit too.
 * Source: KWDB facts, "Files a script installation leaves on a host", "Containers by hand", "Source builds".
 */
const REQUIRED: Readonly<Record<Method, readonly Place[]>> = {
  'script-bare': ['recorded', 'package', 'binary'],
  'script-container': ['recorded', 'binary'],
  compose: ['binary'],
  'docker-run': ['binary'],
  source: ['binary'],
};

/** The version that counts as this installation's: what its method's most exact place tells; it may be no version at all. */
export function installedVersion({ method, versions }: Pick<Installation, 'method' | 'versions'>): string | undefined {
  if (REQUIRED[method].includes('recorded')) return versions.recorded;
  return versions.package ?? versions.binary;
}

/** Whether `target` is installed whole: each place that its method keeps says so, and nothing is half done. */
export function judgeInstalled(report: NodeReport, target: string): Finding[] {
  const installation = report.installation;
  if (installation === undefined) return [block('NOT_INSTALLED', 'KWDB is not installed')];
  const { method, versions, condition, conditionDetail } = installation;
  if (condition === 'package-half-installed' || condition === 'binary-missing' || condition === 'version-file-behind') {
    return [block('INSTALLATION_HALF_DONE', `${condition}: ${conditionDetail}`)];
  }
  return (['recorded', 'package', 'binary'] as const).flatMap((place) =>
    judgePlace(place, versions, target, REQUIRED[method].includes(place)),
  );
}

function judgePlace(place: Place, versions: Versions, target: string, required: boolean): Finding[] {
  const version = versions[place];
  if (version === undefined) {
    return required ? [block('VERSION_UNKNOWN', `${PLACE_NAMES[place]} tells no version`)] : [];
  }
  const fits =
    place === 'recorded' ? isVersion(version) && sameVersion(version, target) : tellsVersion(version, target);
  return fits ? [] : [block('VERIFY_WRONG_VERSION', `${PLACE_NAMES[place]} says ${version}, not ${target}`)];
}

/** Whether the database is stopped: the unit is not active, no process is left, nothing serves. */
export function judgeStopped(report: NodeReport): Finding[] {
  const unit = report.installation?.unit;
  if (unit !== undefined && unit.active !== 'inactive' && unit.active !== 'failed') {
    return [block('STOP_FAILED', `the service is ${unit.active}`)];
  }
  return report.serving ? [block('STOP_FAILED', '/health still answers')] : [];
}

/**
 * Whether the subject is back in the cluster, seen from another node: listed with the target's build, `started_at`
 * newer than before its stop, its record renewed after that start, live, available, and the cluster whole.
 * `is_live` alone proves nothing: the record outlives the process by up to 30 s. Both times compared are the
 * subject's own clock, so skew between hosts does not matter.
 */
export function judgeRejoined(
  health: ClusterHealth,
  subject: { readonly kwdbId: number; readonly startedAfterMs: number },
  expected: readonly number[],
  target: string,
): Finding[] {
  const { kwdbId, startedAfterMs } = subject;
  const row = health.view.nodes.find((node) => node.kwdbId === kwdbId);
  const waiting = (message: string) => [block('VERIFY_TIMEOUT', message, kwdbId)];
  if (health.view.kwdbId === kwdbId) return waiting('asked through the node itself; it must be seen from another');
  if (row?.startedAtMs === undefined || row.updatedAtMs === undefined)
    return waiting(`node ${kwdbId} is not listed as started`);
  if (row.startedAtMs <= startedAfterMs)
    return waiting(`node ${kwdbId} is listed with its old start; it is not back yet`);
  if (row.updatedAtMs <= row.startedAtMs) return waiting(`node ${kwdbId} has not renewed its record since it started`);
  if (row.build === undefined) return [block('VERSION_UNKNOWN', `node ${kwdbId} is listed without a build`, kwdbId)];
  if (!tellsVersion(row.build, target)) {
    return [block('VERIFY_WRONG_VERSION', `node ${kwdbId} came back as ${row.build}, not ${target}`, kwdbId)];
  }
  return judgeSpare(health, expected);
}
