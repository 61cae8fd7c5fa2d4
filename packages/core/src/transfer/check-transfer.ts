/** The checks of a transfer: predicates over two clusters and what they hold. What is unknown blocks. */
import { result } from '../check-result.ts';
import { checkHealth, checkReach } from '../checks.ts';
import type { NodeFacts } from '../facts.ts';
import type { CheckResult } from '../plan.ts';
import type { Cluster } from '../topology.ts';
import type { Inventory, InventoryDatabase, InventoryGrant } from './model.ts';
import { isKnownOption, isKnownPrivilege } from './sql.ts';

export type TransferSide = {
  readonly cluster: Cluster;
  readonly name: string;
  /** The node that exports, or imports; absent when none serves. */
  readonly node: NodeFacts | undefined;
  readonly inventory: Inventory | undefined;
  /** Why there is no inventory. */
  readonly failure?: string;
};

export type TransferCheckInput = {
  readonly source: TransferSide;
  readonly target: TransferSide;
  readonly nowMs: number;
};

/** So many names are told in one message. */
const NAMED = 12;

export function checkTransfer(input: TransferCheckInput): CheckResult[] {
  const { source, target } = input;
  if (source.cluster.id === target.cluster.id) {
    return [result('block', 'TRANSFER_SAME_CLUSTER', `${source.name} cannot be transferred into itself`)];
  }
  return [
    ...[source, target].flatMap((side) => checkSide(side, input.nowMs)),
    ...(source.inventory === undefined ? [] : checkContents(source.inventory)),
    ...(source.inventory === undefined || target.inventory === undefined
      ? []
      : [...checkEmpty(source.inventory, target.inventory), ...checkSettings(source.inventory, target.inventory)]),
  ];
}

function checkSide(side: TransferSide, nowMs: number): CheckResult[] {
  const { cluster, name, node, inventory, failure } = side;
  if (node === undefined) return [result('block', 'NODE_NOT_RUNNING', `no node of ${name} serves and is reported`)];
  const { installation, host } = node.report;
  const checks = [checkReach(node, nowMs)];
  if (installation?.method !== 'script-bare') {
    const how = installation === undefined ? 'not installed' : `deployed by ${installation.method}`;
    checks.push(
      result('block', 'METHOD_UNSUPPORTED', `it is ${how}; transfers need kwbase on the host itself`, node.node),
    );
  }
  if (host.privileges !== 'root') {
    checks.push(
      result(
        'block',
        'PRIVILEGES_MISSING',
        "a transfer reads and writes the database's files: its agent must be root",
        node.node,
      ),
    );
  }
  if (inventory === undefined) {
    checks.push(
      result('unknown', 'TRANSFER_UNKNOWN', `${name} did not tell what it holds: ${failure ?? 'no answer'}`, node.node),
    );
  }
  return [
    ...checks,
    ...checkHealth({ cluster, nowMs }).map((check) => ({ ...check, message: `${name}: ${check.message}` })),
  ];
}

function checkContents(inventory: Inventory): CheckResult[] {
  const { databases, users, grants } = inventory;
  const checks: CheckResult[] = [];
  const tables = databases.reduce((sum, { tables: found }) => sum + found.length, 0);
  if (tables === 0) checks.push(result('block', 'TRANSFER_NOTHING', 'the source holds no tables of users'));
  else checks.push(result('pass', 'TRANSFER_NOTHING', `${tables} tables in ${databases.length} databases are carried`));
  const left = databases.flatMap(({ name, notCarried }) => notCarried.map((what) => `${name}: ${what}`));
  if (left.length > 0) checks.push(warn(`these are not carried: ${listed(left)}`));
  const foreign = databases.flatMap(({ name, foreignKeys }) =>
    foreignKeys.map(({ schema, table }) => `${name}.${schema}.${table}`),
  );
  if (foreign.length > 0)
    checks.push(warn(`foreign keys of these tables are not carried: ${listed([...new Set(foreign)])}`));
  const series = databases.filter(({ engine }) => engine === 'timeseries').map(({ name }) => name);
  if (series.length > 0)
    checks.push(warn(`retentions and partition intervals of these are not carried: ${listed(series)}`));
  const unknown = grants.filter(({ privilege }) => !isKnownPrivilege(privilege)).map(grantName);
  if (unknown.length > 0) checks.push(warn(`these privileges are not carried: ${listed(unknown)}`));
  const options = users.flatMap((user) =>
    user.options.filter((option) => !isKnownOption(option)).map((option) => `${option} of ${user.name}`),
  );
  if (options.length > 0) checks.push(warn(`these options of users are not carried: ${listed(options)}`));
  const people = users.filter(({ isRole }) => !isRole).map(({ name }) => name);
  if (people.length > 0) {
    checks.push(result('warn', 'TRANSFER_PASSWORDS', `these users come without their passwords: ${listed(people)}`));
  }
  return checks;
}

const grantName = ({ database, schema, table, grantee, privilege }: InventoryGrant): string =>
  `${privilege} on ${[database, schema, table].filter((name) => name !== undefined).join('.')} of ${grantee}`;

/** A database of the same name may be there only as every fresh cluster has it: relational, and without anything in it. */
function checkEmpty(source: Inventory, target: Inventory): CheckResult[] {
  const there = new Map(target.databases.map((database) => [database.name, database]));
  const inTheWay = source.databases.flatMap((database) => {
    const found = there.get(database.name);
    return found === undefined || isEmpty(found) ? [] : [found.name];
  });
  const series = source.databases.filter(({ name, engine }) => engine === 'timeseries' && there.has(name));
  const names = [...new Set([...inTheWay, ...series.map(({ name }) => name)])];
  if (names.length === 0) return [result('pass', 'TRANSFER_TARGET_NOT_EMPTY', 'nothing on the target is in the way')];
  return names.map((name) => result('block', 'TRANSFER_TARGET_NOT_EMPTY', `the target has a database ${name} already`));
}

const isEmpty = ({ engine, tables, notCarried }: InventoryDatabase): boolean =>
  engine === 'relational' && tables.length === 0 && notCarried.length === 0;

function checkSettings(source: Inventory, target: Inventory): CheckResult[] {
  const known = new Set(target.knownSettings);
  const skipped = source.clusterSettings.filter(({ name }) => !known.has(name)).map(({ name }) => name);
  return skipped.length === 0 ? [] : [warn(`the target's version does not know these settings: ${listed(skipped)}`)];
}

const warn = (message: string): CheckResult => result('warn', 'TRANSFER_NOT_CARRIED', message);

function listed(names: readonly string[]): string {
  const more = names.length > NAMED ? `, and ${names.length - NAMED} more` : '';
  return `${names.slice(0, NAMED).join(', ')}${more}`;
}
