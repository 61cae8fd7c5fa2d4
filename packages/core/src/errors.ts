/** Every error of the system, its stable code, and what a person should do. `docs/reference/errors.md` lists them all. */

type Entry = { readonly status: number; readonly remedy: string };

export const ERRORS = {
  // Asking
  BAD_REQUEST: { status: 400, remedy: 'Correct the request as the message says; /docs has its schema.' },
  UNAUTHORIZED: { status: 401, remedy: 'Give a token (KWFLEET_TOKEN); `kwfleet token create` makes one.' },
  FORBIDDEN: { status: 403, remedy: 'Use a token whose role allows this.' },
  NOT_FOUND: { status: 404, remedy: 'Check the spelling of the address.' },
  CLUSTER_UNKNOWN: {
    status: 404,
    remedy: 'List the clusters with `kwfleet clusters`; an agent must report from it first.',
  },
  CLUSTER_AMBIGUOUS: { status: 409, remedy: 'Name the cluster by its id.' },
  NODE_UNKNOWN: { status: 404, remedy: 'List the nodes with `kwfleet nodes`.' },
  PACKAGE_UNKNOWN: { status: 404, remedy: 'Add the package with `kwfleet package add FILE`.' },
  PACKAGE_IN_USE: { status: 409, remedy: 'Wait until the run that uses it has ended.' },
  PLAN_UNKNOWN: { status: 404, remedy: 'Make a plan first: `kwfleet plan CLUSTER --to VERSION`.' },
  PLAN_HASH_MISMATCH: { status: 409, remedy: 'Look at the plan again and start it with the hash it shows now.' },
  PLAN_BLOCKED: { status: 422, remedy: 'Mend what the blocking checks name, then plan again.' },
  PLAN_STALE: { status: 409, remedy: 'The cluster changed since the plan was made: plan again.' },
  FILE_INVALID: { status: 422, remedy: 'Correct the file at the lines and columns that are named.' },
  WINDOW_UNKNOWN: { status: 404, remedy: 'List the windows with `kwfleet windows`.' },
  WINDOW_IN_USE: {
    status: 409,
    remedy: 'Let the run that works in it end, or abort it; a freeze stops what has not begun.',
  },
  WINDOW_CLOSED: { status: 409, remedy: 'Nothing to do: it begins when its window opens.' },
  WINDOW_FROZEN: {
    status: 409,
    remedy: 'Nothing to do: it begins after the freeze; take the freeze away to go on earlier.',
  },
  WINDOW_TOO_SHORT: {
    status: 409,
    remedy: 'Nothing to do: it begins in the next window that is long enough for what it is reckoned to take.',
  },
  WINDOW_NEVER: {
    status: 422,
    remedy: 'Give it a window that opens, for this cluster, and for as long as it is reckoned to take.',
  },
  ROLLOUT_UNKNOWN: { status: 404, remedy: 'List the rollouts with `kwfleet rollouts`.' },
  ROLLOUT_CHOICE_ILLEGAL: { status: 409, remedy: 'Take one of the choices that the rollout shows.' },
  ROLLOUT_LIMIT: { status: 422, remedy: 'Raise limits.hosts in the file, or leave this cluster out of the rollout.' },
  ROLLOUT_BUDGET_SPENT: {
    status: 409,
    remedy:
      'See what failed (`kwfleet rollout show ID`), mend it, then resume: what failed so far is not counted again.',
  },
  ROLLOUT_WAVE_FAILED: { status: 409, remedy: 'See what failed, mend it, then resume: the rest of the wave goes on.' },
  ROLLOUT_CHECKS_BLOCK: {
    status: 409,
    remedy: 'See the checks (`kwfleet rollout check ID`), mend what they name, then resume: they are asked once more.',
  },
  CLUSTER_UNHEALTHY: {
    status: 409,
    remedy: 'Look at the cluster: it was upgraded, and was not healthy after the soak.',
  },
  RUN_NOT_SUCCEEDED: {
    status: 409,
    remedy: 'See why with `kwfleet run show ID`; then upgrade this cluster by itself.',
  },
  RUN_UNKNOWN: { status: 404, remedy: 'List the runs with `kwfleet runs`.' },
  RUN_ACTIVE: { status: 409, remedy: 'One run at a time for a cluster: finish or abort the active one.' },
  APPROVAL_NEEDED: {
    status: 409,
    remedy: 'Have it approved: `kwfleet approvals` lists what waits, `kwfleet run approve ID` approves; or abort it.',
  },
  APPROVAL_REFUSED: {
    status: 409,
    remedy: 'Have somebody approve whose word counts, for exactly what is there now; `kwfleet approvals` shows it.',
  },
  APPROVAL_POLICY_UNKNOWN: { status: 404, remedy: 'List the policies with `kwfleet policies`.' },
  NOTIFICATION_FAILED: {
    status: 502,
    remedy: 'Mend what the message says: the address, the secret, or the receiver; then test the target again.',
  },
  RUN_CHOICE_ILLEGAL: { status: 409, remedy: 'Take one of the choices that the run shows.' },
  RATE_LIMITED: {
    status: 429,
    remedy: 'Ask less often; Retry-After says when again. rest.requests_per_minute of the controller is the limit.',
  },
  IDEMPOTENCY_IN_PROGRESS: {
    status: 409,
    remedy: 'Wait for the first request with this key to be answered, then ask again.',
  },
  IDEMPOTENCY_MISMATCH: { status: 422, remedy: 'Use a new Idempotency-Key for every new request.' },
  IDEMPOTENCY_SPENT: {
    status: 409,
    remedy: 'Use a new Idempotency-Key to make another; revoke the one whose secret was lost.',
  },
  INTERNAL: {
    status: 500,
    remedy: "Look into the controller's log for the request id; this is a bug worth reporting.",
  },
  STATE_NEWER: { status: 409, remedy: 'Run the newer controller that began this run; an older one leaves it alone.' },
  UNAVAILABLE: {
    status: 503,
    remedy: 'Try again shortly; the controller is starting, stopping or without its database.',
  },

  // Packages
  PACKAGE_UNREADABLE: {
    status: 422,
    remedy: 'Get the package again: it is not a whole .tar.gz, nor the whole .tar of an image.',
  },
  PACKAGE_INCOMPLETE: { status: 422, remedy: "Get the vendor's whole package: a file it must contain is missing." },
  PACKAGE_UNSAFE: { status: 422, remedy: 'Do not use this package: it holds paths or links that leave its folder.' },
  PACKAGE_CORRUPT: { status: 422, remedy: 'The bytes do not have the expected SHA-256: transfer the package again.' },
  SOURCE_REFUSED: {
    status: 422,
    remedy: "Name a place that the controller's configuration allows (packages.sources), or send the file itself.",
  },
  SOURCE_FAILED: {
    status: 502,
    remedy: 'See whether the place can be reached from the controller, then add it again.',
  },
  PACKAGE_UNSIGNED: {
    status: 422,
    remedy: 'Sign it: `kwfleet package sign FILE --key KEY`. Agents refuse packages that people did not sign.',
  },
  PACKAGE_UNTRUSTED: {
    status: 422,
    remedy:
      'The host refuses what its root of trust does not vouch for. Sign the package (`kwfleet package sign`); if you did, the controller shows hosts something else: see docs/packages.md.',
  },
  TRUST_EXPIRED: {
    status: 422,
    remedy:
      "Set the host's clock if it is wrong. Else the controller withholds news, or a signature is too old: `kwfleet root show` tells which, `kwfleet package sign` or `kwfleet root change` renews it.",
  },
  TRUST_ROLLED_BACK: {
    status: 422,
    remedy:
      'The controller shows an older state than this host has seen: if its database was put back from a backup, sign the list of packages anew; else find out who changed it.',
  },
  TRUST_ROOT_UNKNOWN: {
    status: 422,
    remedy:
      'Give the host the root that its configuration names (packages.root or packages.root_sha256), or name the right one: `kwfleet root show`.',
  },
  TRUST_INVALID: { status: 422, remedy: 'Correct what the message says and sign again; nothing was published.' },
  PACKAGE_TOO_LARGE: {
    status: 413,
    remedy: 'Raise packages.max_bytes in the configuration if the package really is this large.',
  },

  // Checks before the start and at each gate
  NODE_MISSING: { status: 422, remedy: 'Install the agent on that node, or decommission the node in the database.' },
  NODE_DUPLICATE: {
    status: 422,
    remedy:
      'Two agents speak for one node of the database: one of them is a copy; give it an identity of its own or remove it.',
  },
  NODE_UNREACHABLE: {
    status: 422,
    remedy: "Bring the node's agent back (systemctl status kwfleet-agent), then plan again.",
  },
  FACTS_STALE: { status: 422, remedy: "The node's last report is too old to act on: wait for its agent to report." },
  TOPOLOGY_DISAGREES: {
    status: 422,
    remedy: 'MODE and the running start command tell different topologies: mend the host before any upgrade.',
  },
  TOPOLOGY_UNKNOWN: { status: 422, remedy: 'Start the database so that it can tell its start mode, or restore MODE.' },
  NOT_INSTALLED: { status: 422, remedy: 'Install KWDB on the node first; an upgrade needs an installation.' },
  METHOD_MISMATCH: { status: 422, remedy: 'Add the package made for the deployment method of this node.' },
  METHOD_UNSUPPORTED: { status: 422, remedy: 'This deployment method cannot be upgraded by this version of kwfleet.' },
  ROUTE_UNSUPPORTED: { status: 422, remedy: 'Plan with the route `offline`: only deploy.sh upgrades a running node.' },
  CONTAINER_UNFIT: {
    status: 422,
    remedy:
      'Make the container so that it can be replaced: data and certificates on mounts, no --rm, one of KWDB a host (or docker.container in agent.yaml).',
  },
  COMPOSE_UNFIT: {
    status: 422,
    remedy:
      'Give the KWDB service of the compose project an image of its own and apply its files with `up -d`, as the message says; then retry.',
  },
  METHODS_MIXED: {
    status: 422,
    remedy: 'All nodes of a cluster must be deployed by one method; redeploy the odd one.',
  },
  ARCHITECTURE_MISMATCH: { status: 422, remedy: "Add the package built for the node's architecture." },
  DISTRIBUTION_MISMATCH: {
    status: 422,
    remedy: 'Add the package built for the package tool of the node (dpkg where there is one, else rpm).',
  },
  PREVIOUS_PACKAGE_MISSING: {
    status: 422,
    remedy:
      'Add the package of the installed version (`kwfleet package add FILE`): rpm cannot pack what is installed for the way back.',
  },
  VERSION_INVALID: { status: 400, remedy: 'Write versions as KWDB does: 3.1.0, or 3.1.0-hotfix1.' },
  VERSION_UNKNOWN: { status: 422, remedy: 'The node does not tell its version: repair the installation first.' },
  VERSION_OLDER: {
    status: 422,
    remedy: 'KWDB is never downgraded in place: uninstall, install the old version, restore the backup.',
  },
  VERSION_EQUAL: { status: 422, remedy: 'Nothing to do: the node has this version already.' },
  VERSION_REFUSED: { status: 422, remedy: 'KWDB refuses this step between extensions; choose another target version.' },
  VERSION_UNSUPPORTED: {
    status: 422,
    remedy: 'Ask the vendor; if they agree, plan again with --bypass-version-check.',
  },
  PRIVILEGES_MISSING: {
    status: 422,
    remedy: 'Run the agent as root, or give its user sudo without a password; a transfer needs root.',
  },
  SUDO_MISSING: { status: 422, remedy: 'deploy.sh calls sudo even for root: install sudo on the node.' },
  CACHE_FULL: {
    status: 422,
    remedy: "Raise packages.cache_max_bytes in the host's configuration, or fetch the package with its order.",
  },
  DISK_FULL: { status: 422, remedy: 'Free the space that the message names on the node, then plan again.' },
  INSTALLATION_HALF_DONE: {
    status: 422,
    remedy: 'An earlier upgrade was interrupted here: see docs/failures.md for this condition.',
  },
  NODE_MARKED_UPGRADING: {
    status: 422,
    remedy: 'An earlier online upgrade left its mark: restart the node once with --upgrade-complete.',
  },
  NODE_NOT_LIVE: { status: 422, remedy: 'Bring the node back before anything else is upgraded.' },
  NODE_NOT_AVAILABLE: { status: 422, remedy: 'The node is marked upgrading or decommissioning: finish that first.' },
  NODE_NOT_RUNNING: { status: 422, remedy: 'Start the database on the node, so that the cluster can be checked.' },
  RANGES_UNAVAILABLE: { status: 422, remedy: 'Data is out of reach now: repair the cluster before an upgrade.' },
  RANGES_UNDERREPLICATED: { status: 422, remedy: 'Wait until all ranges have their replicas again.' },
  JOBS_RUNNING: {
    status: 422,
    remedy: 'Wait for the schema changes and imports to end, or pause the work that starts them.',
  },
  LEASES_UNEVEN: { status: 422, remedy: 'Wait for the leases to spread over the nodes.' },
  CLIENTS_ON_ONE_NODE: {
    status: 422,
    remedy: 'Give clients the addresses of several nodes; those on one node will notice its restart.',
  },
  CLUSTER_TOO_SMALL: {
    status: 422,
    remedy: 'A multi-replica cluster needs at least three nodes to lose none of its service in an upgrade.',
  },
  HEALTH_UNKNOWN: {
    status: 422,
    remedy: 'The database did not answer this question; unknown counts as unsafe. Find out why it does not answer.',
  },
  CLOCK_SKEW: {
    status: 422,
    remedy: 'Set the clocks of the nodes by NTP: KWDB tolerates half a second between them.',
  },
  AGENT_INCOMPATIBLE: {
    status: 422,
    remedy: 'Bring agent and controller to one release: the first two numbers of their versions must be the same.',
  },
  GLIBC_TOO_OLD: {
    status: 422,
    remedy: 'Add the package built for the distribution of this host, or upgrade the distribution first.',
  },
  PORT_TAKEN: {
    status: 422,
    remedy: 'Stop the other program, or the database cannot start: `ss -ltnp` on the host names it.',
  },
  CERTIFICATE_EXPIRY: {
    status: 422,
    remedy: "Renew the database's certificates on the host: a node whose certificate expired does not come back.",
  },
  RESTARTER_FOUND: {
    status: 422,
    remedy: 'See that it does not start or change the database during the upgrade: pause it, or let it know.',
  },
  IMAGE_UNAVAILABLE: {
    status: 422,
    remedy:
      'See that the host reaches the registry and may pull from it, or pull the image there by hand (docker pull, by the same digest).',
  },
  BACKUP_REQUIRED: {
    status: 422,
    remedy:
      'Choose --backup copy or command, state one (--backup attested:WHERE), or give a reason for none (--backup none:REASON).',
  },
  BACKUP_EXPIRED: {
    status: 422,
    remedy:
      'Make a new backup and state it, or say how old it may be (--backup-max-age, `maxAgeMs` in a rollout); or choose --backup copy.',
  },
  BACKUP_UNSUPPORTED: {
    status: 422,
    remedy: 'This backup cannot be made or restored here as the message says: see docs/backup.md for what can.',
  },
  BACKUP_UNKNOWN: { status: 404, remedy: 'List the backups with `kwfleet backups`.' },
  BACKUP_INCOMPLETE: {
    status: 422,
    remedy: 'Choose a backup that has a copy of every node of the cluster: see `kwfleet backups`.',
  },
  BACKUP_INCONSISTENT: {
    status: 422,
    remedy: 'Choose a backup that was made with all nodes stopped: `kwfleet backup CLUSTER` makes one.',
  },
  BACKUP_WRONG_VERSION: {
    status: 422,
    remedy: 'A backup is restored under the version that made it: `kwfleet downgrade` installs that version first.',
  },

  // On a host
  EPOCH_STALE: {
    status: 409,
    remedy: 'Nothing to do: an order of a controller that is no longer in charge was refused.',
  },
  ORDER_LATE: {
    status: 409,
    remedy:
      'Nothing was touched: orders reach this host long after they were given. See to its link to the controller, and to the clock of PostgreSQL: if that was set, restart the agent, which is told the time when it connects. Then retry.',
  },
  ACTION_INVALID: { status: 422, remedy: 'Agent and controller differ in version: upgrade the agent.' },
  INTERLOCK_REFUSED: {
    status: 409,
    remedy: 'The node saw on its own that the cluster cannot spare it now: mend what the message names, then retry.',
  },
  DRAIN_FAILED: { status: 500, remedy: 'See why the node does not drain (long transactions?), then retry.' },
  STOP_FAILED: {
    status: 500,
    remedy: 'See `journalctl -u kaiwudb` (of a container `docker logs`) on the node: it does not stop.',
  },
  START_FAILED: {
    status: 500,
    remedy: 'See `journalctl -u kaiwudb` (of a container `docker logs`) on the node: the database does not start.',
  },
  VERIFY_TIMEOUT: {
    status: 500,
    remedy: 'The node is not serving as it should; the message says what is missing. Mend it, then retry.',
  },
  VERIFY_WRONG_VERSION: {
    status: 500,
    remedy: 'Another version is installed or running than the target: see the four versions in the message.',
  },
  INSTALL_FAILED: {
    status: 500,
    remedy: "See the host's own words; the old version was put back if the message says so.",
  },
  BUILD_FAILED: {
    status: 500,
    remedy:
      'Nothing was stopped: see the last words of the step, mend the source or `source.build` in agent.yaml, then retry.',
  },
  INSTALL_TIMEOUT: { status: 500, remedy: 'deploy.sh made no progress: look at the host before a retry.' },
  INSTALL_LOST: {
    status: 500,
    remedy: 'deploy.sh was killed or the host went down; a retry looks at the host first and repairs it.',
  },
  ROLLBACK_FAILED: {
    status: 500,
    remedy: 'The old version could not be put back: reinstall it by hand from the package kept in the state directory.',
  },
  DEPLOY_NOT_INSTALLED: { status: 422, remedy: 'deploy.sh finds no KWDB on the node.' },
  DEPLOY_PACKAGE_INCOMPLETE: { status: 422, remedy: 'deploy.sh misses a package file: get the whole package.' },
  DEPLOY_WRONG_METHOD: { status: 422, remedy: 'The package is for another deployment method.' },
  DEPLOY_VERSION_OLDER: { status: 422, remedy: 'The package is older than the installed version.' },
  DEPLOY_VERSION_REFUSED: { status: 422, remedy: 'deploy.sh refuses this version step.' },
  DEPLOY_VERSION_UNSUPPORTED: {
    status: 422,
    remedy: 'Ask the vendor; if they agree, plan again with --bypass-version-check.',
  },
  DEPLOY_STILL_RUNNING: {
    status: 409,
    remedy: 'The database runs although it must be stopped: something restarts it on the host.',
  },
  DEPLOY_MARK_FAILED: {
    status: 500,
    remedy: 'The node could not be marked upgrading: another node is down or marked.',
  },
  DEPLOY_PASSWORD: { status: 422, remedy: "Give the agent's user sudo without a password, or run the agent as root." },
  ENGINE_SILENT: {
    status: 500,
    remedy:
      "See on the node whether Docker runs (`systemctl status docker`), and whether the agent's user may open its socket; then retry.",
  },
  ENGINE_FAILED: { status: 500, remedy: 'The Docker engine refused: see its own words, mend that, then retry.' },
  SERVICE_MANAGER_SILENT: {
    status: 500,
    remedy: 'systemd does not answer on the node: see whether the host is going down, then retry.',
  },
  HOST_REBOOTED: { status: 500, remedy: 'The host went down in the middle; a retry looks at it first and goes on.' },
  FETCH_FAILED: { status: 500, remedy: 'The package could not be brought to the node; see the reason and retry.' },
  BACKUP_FAILED: {
    status: 500,
    remedy: "No backup was made; see the host's own words, mend what they name, then retry. Nothing was installed.",
  },
  BACKUP_MISSING: {
    status: 422,
    remedy: 'The backup is not on the host any more: put it back where it was, or choose another.',
  },
  BACKUP_DAMAGED: {
    status: 422,
    remedy: 'The backup is not what it was when it was made: choose another. Nothing was stopped for it.',
  },
  RESTORE_FAILED: {
    status: 500,
    remedy: 'See the message: what was there before the restore is kept beside it, or was put back.',
  },
  KWBASE_FAILED: { status: 500, remedy: 'A question to the database failed: see its own words.' },

  // Transfers
  TRANSFER_SAME_CLUSTER: { status: 422, remedy: 'Name another cluster after --into: a fresh one of the new version.' },
  TRANSFER_NOTHING: { status: 422, remedy: 'Nothing to do: the source holds no tables of users.' },
  TRANSFER_UNKNOWN: {
    status: 422,
    remedy: 'The database did not tell what it holds: see the words of the node that was asked, then plan again.',
  },
  TRANSFER_TARGET_NOT_EMPTY: {
    status: 422,
    remedy: 'Nothing that is there is replaced: drop it on the target if nobody needs it, or choose a fresh cluster.',
  },
  TRANSFER_NOT_CARRIED: {
    status: 422,
    remedy: "KWDB's EXPORT leaves it out: make it anew on the target after the transfer; see docs/transfer.md.",
  },
  TRANSFER_PASSWORDS: {
    status: 422,
    remedy: 'Passwords are not carried: give these users new ones on the target after the transfer.',
  },
  TRANSFER_SOURCE_CHANGED: {
    status: 409,
    remedy:
      'Stop the clients that write to the source until the transfer has ended, then retry: the table is exported anew.',
  },
  TRANSFER_EXPORT_FAILED: { status: 500, remedy: "See KWDB's own words, mend the source, then retry." },
  TRANSFER_IMPORT_FAILED: {
    status: 500,
    remedy: "See KWDB's own words; a retry drops what this run half imported, and exports and imports the table anew.",
  },
  TRANSFER_ROWS_REJECTED: {
    status: 409,
    remedy:
      'Read the reject file on the target host, mend the rows in the source, then retry: the table is exported and imported anew. Or abort.',
  },
  TRANSFER_MISMATCH: {
    status: 409,
    remedy: 'Source and target differ: see that no client writes to either, then retry: the table is done anew.',
  },
  TRANSFER_CORRUPT: {
    status: 409,
    remedy: 'A file was damaged on its way: look at the disks of the controller and both hosts, then retry.',
  },
  TRANSFER_TOO_LARGE: {
    status: 413,
    remedy: 'Raise transfers.max_bytes of the controller, or see docs/transfer.md for the limits of one table.',
  },

  // Holding
  STEP_STALLED: {
    status: 409,
    remedy:
      'Nothing moved for longer than the deadline: look at the host. The run goes on by itself when the step moves or ends.',
  },
  AGENT_LOST: { status: 409, remedy: "Bring the node's agent back; the run goes on by itself when it reports." },
  GATE_CLOSED: {
    status: 409,
    remedy:
      'The cluster is not healthy enough for the next step: mend what the message names; the run goes on when told to retry.',
  },
  PAUSED_BY_OPERATOR: { status: 409, remedy: 'Resume the run when ready.' },

  // Agents and access
  ENROLLMENT_INVALID: { status: 401, remedy: 'Make a new one-time token: `kwfleet enrollment create --node NODE`.' },
  CONFIG_INVALID: { status: 400, remedy: 'Correct the configuration file as the message says.' },
} as const satisfies Record<string, Entry>;

export type ErrorCode = keyof typeof ERRORS;

/** An error with a stable code: what happened (message), where (node), the host's own words, and what to do next. */
export class FleetError extends Error {
  override readonly name = 'FleetError';
  readonly code: ErrorCode;
  readonly node: string | undefined;
  readonly words: string | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    where: { node?: string | undefined; words?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, where.cause === undefined ? undefined : { cause: where.cause });
    this.code = code;
    this.node = where.node;
    this.words = where.words;
  }

  get remedy(): string {
    return ERRORS[this.code].remedy;
  }
}
