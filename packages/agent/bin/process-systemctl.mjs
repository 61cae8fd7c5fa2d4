#!/usr/bin/env node
// The part of systemctl that KWDB's scripts use, over ProcessServices, on the root named by KW_STANDIN_ROOT.
import { ProcessServices } from '../src/host/process-services.ts';

const TIMEOUT_MS = 90_000;

/** Splits options from words; properties may be given as `-p A`, `--property A` or `--property=A,B`. */
function parse(argv) {
  const words = [];
  const properties = [];
  let value = false;
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i];
    const inline = /^--property=(.*)$/.exec(argument);
    if (inline) properties.push(...inline[1].split(','));
    else if (argument === '-p' || argument === '--property') properties.push(...argv[++i].split(','));
    else if (argument === '--value') value = true;
    else if (!argument.startsWith('-')) words.push(argument);
  }
  return { words, properties, value };
}

function propertiesOf(state) {
  return {
    MainPID: state.mainPid ?? 0,
    ActiveState: state.active,
    SubState: { active: 'running', inactive: 'dead' }[state.active] ?? state.active,
    LoadState: state.exists ? 'loaded' : 'not-found',
    UnitFileState: state.exists ? (state.enabled ? 'enabled' : 'disabled') : '',
    ExecMainStartTimestamp: state.startedAtMs === null ? '' : new Date(state.startedAtMs).toUTCString(),
  };
}

function show(state, { properties, value }) {
  const all = propertiesOf(state);
  const names = properties.length > 0 ? properties : Object.keys(all);
  for (const name of names) process.stdout.write(value ? `${all[name] ?? ''}\n` : `${name}=${all[name] ?? ''}\n`);
  return 0;
}

function status(unit, state) {
  if (!state.exists) {
    process.stderr.write(`Unit ${unit}.service could not be found.\n`);
    return 4;
  }
  process.stdout.write(`${unit}.service\n     Active: ${state.active}\n   Main PID: ${state.mainPid ?? '-'}\n`);
  return state.active === 'active' ? 0 : 3;
}

async function run(argv) {
  const root = process.env.KW_STANDIN_ROOT;
  if (!root) throw new Error('KW_STANDIN_ROOT is not set: which root directory is meant?');
  const services = new ProcessServices(root);
  const options = parse(argv);
  const [command, name = ''] = options.words;
  const unit = name.replace(/\.service$/, '');
  const needsUnit = ['start', 'restart', 'enable'].includes(command);
  if (needsUnit && !(await services.state(unit)).exists) {
    process.stderr.write(`Failed to ${command} ${unit}.service: Unit ${unit}.service not found.\n`);
    return 5;
  }
  switch (command) {
    case 'daemon-reload':
      await services.reload();
      return 0;
    case 'start':
      await services.start(unit, TIMEOUT_MS);
      return 0;
    case 'stop':
      await services.stop(unit, TIMEOUT_MS);
      return 0;
    case 'restart':
      await services.stop(unit, TIMEOUT_MS);
      await services.start(unit, TIMEOUT_MS);
      return 0;
    case 'enable':
      await services.setEnabled(unit, true);
      return 0;
    case 'disable':
      await services.setEnabled(unit, false);
      return 0;
    case 'show':
      return show(await services.state(unit), options);
    case 'status':
      return status(unit, await services.state(unit));
    case 'is-active': {
      const { active } = await services.state(unit);
      process.stdout.write(`${active}\n`);
      return active === 'active' ? 0 : 3;
    }
    case 'is-enabled': {
      const { enabled } = await services.state(unit);
      process.stdout.write(enabled ? 'enabled\n' : 'disabled\n');
      return enabled ? 0 : 1;
    }
    default:
      throw new Error(`Unknown command verb ${command}.`);
  }
}

try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
