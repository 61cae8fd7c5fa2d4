import { describe, expect, it } from 'vitest';
import { containerCommand, onHost } from '../src/docker/command.ts';
import { addressOf, securityOf, storeOf } from '../src/host/start-command.ts';

const of = (...argv: string[]) => containerCommand({ Path: argv[0] ?? '', Args: argv.slice(1) });

describe('the command of a container', () => {
  it.each([
    [['./kwbase', 'start-single-node', '--insecure'], 'standalone'],
    [['/kaiwudb/bin/kwbase', 'start', '--certs-dir=/c', '--join', 'a:26257,b:26257'], 'multi-replica'],
    [['/bin/bash', '-c', '/kaiwudb/bin/kwbase start-single-replica $ARG --tlcp --certs-dir=/c'], 'single-replica'],
    [['/entry.sh', 'kwbase', 'start', '--insecure'], 'multi-replica'],
    [['tini', '--', './kwbase', 'start-single-node'], 'standalone'],
    [['/bin/sh', '-ec', 'ulimit -n 1; exec "./kwbase"  start --store="/a b"\nsleep 1'], 'multi-replica'],
  ])('%j is a %s node', (argv, topology) => {
    expect(of(...argv)?.topology).toBe(topology);
  });

  it.each([
    [['./kwbase', 'sql', '-e', 'select 1']],
    [['./kwbase', 'version']],
    [['nginx', '-g', 'daemon off;']],
    [['/bin/sh', '-c', 'echo kwbase start-single-node-not']],
    [[]],
  ])('%j runs no node', (argv) => {
    expect(of(...argv)).toBeUndefined();
  });

  it('tells flags in both spellings, and switches without a value', () => {
    const command = of('kwbase', 'start', '--insecure', '--store', '/data', '--listen-addr=:5', '--join=a,b');
    expect([...(command?.flags ?? [])]).toEqual([
      ['insecure', ''],
      ['store', '/data'],
      ['listen-addr', ':5'],
      ['join', 'a,b'],
    ]);
    expect(command && securityOf(command)).toBe('insecure');
  });

  it.each([
    ['--store=/data', '/data'],
    ['--store=path=/data,size=20%', '/data'],
    ['--store=data', '/kaiwudb/bin/data'],
    ['--insecure', '/kaiwudb/bin/kwbase-data'],
  ])('%s keeps its data in %s', (flag, expected) => {
    const command = of('./kwbase', 'start-single-node', flag);
    expect(command && storeOf(command, '/kaiwudb/bin')).toBe(expected);
  });

  it.each([
    ['0.0.0.0:26258', { host: '0.0.0.0', port: 26258 }],
    [':26258', { host: '', port: 26258 }],
    ['db-1', { host: 'db-1', port: 1 }],
    ['[fd00::1]:5', { host: 'fd00::1', port: 5 }],
    [undefined, { host: '', port: 1 }],
  ])('%s is an address', (text, expected) => {
    expect(addressOf(text, 1)).toEqual(expected);
  });

  it('finds where a path lies on the host by the deepest mount', () => {
    const mount = (Destination: string, Source: string) => ({ Destination, Source });
    const Mounts = [mount('/kaiwudb', '/srv/all'), mount('/kaiwudb/deploy', '/var/lib/kaiwudb')] as never;
    expect(onHost({ Mounts }, '/kaiwudb/deploy/store')).toBe('/var/lib/kaiwudb/store');
    expect(onHost({ Mounts }, '/kaiwudb/deployment')).toBe('/srv/all/deployment');
    expect(onHost({ Mounts }, '/elsewhere')).toBeUndefined();
  });
});
