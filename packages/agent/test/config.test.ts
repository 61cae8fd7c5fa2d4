import { hostname } from 'node:os';
import { expect, test } from 'vitest';
import { parseAgentConfig } from '../src/config.ts';

test('defaults', () => {
  expect(parseAgentConfig('controller: {address: "127.0.0.1:7090"}\ninsecure: true\n')).toEqual({
    node: hostname(),
    controller: { address: '127.0.0.1:7090' },
    security: { kind: 'insecure' },
    stateDir: '/var/lib/kwfleet',
    root: '/',
    serviceManager: 'auto',
    heartbeatMs: 5000,
    statusTimeoutMs: 10_000,
    docker: { socket: '/var/run/docker.sock', container: undefined, removeOldImage: false },
    trust: { kind: 'first-contact' },
    cacheMaxBytes: 20 * 1024 ** 3,
    source: { tree: undefined, build: undefined },
    logLevel: 'info',
    backup: { directory: '/var/lib/kwfleet/backups', keep: 2, command: undefined },
  });
});

test('enrollment', () => {
  const pin = 'AB:'.repeat(31).concat('AB');
  const text = `controller: {address: "ctl.example.org:7090"}\nenrollment: {token_file: /etc/t, authority_sha256: "${pin}"}\n`;
  expect(parseAgentConfig(text).security).toEqual({
    kind: 'enrollment',
    tokenFile: '/etc/t',
    authoritySha256: 'ab'.repeat(32),
  });
});

test('trust', () => {
  const base = 'controller: {address: "127.0.0.1:7090"}\ninsecure: true\n';
  const trust = (packages: string) => parseAgentConfig(`${base}packages: ${packages}\n`).trust;
  expect(trust('{trust: off}')).toEqual({ kind: 'off' });
  expect(trust('{root: /etc/kwfleet/root.json}')).toEqual({ kind: 'root', file: '/etc/kwfleet/root.json' });
  expect(trust(`{root_sha256: ${'AB'.repeat(32)}}`)).toEqual({ kind: 'root-sha256', sha256: 'ab'.repeat(32) });
});

test('a build from source', () => {
  const base = 'controller: {address: "127.0.0.1:7090"}\ninsecure: true\n';
  const build = (text: string) => parseAgentConfig(`${base}source: {build: ${text}}\n`).source.build;
  expect(build('{directory: /src, steps: [[make, -j2], [make, install]], environment: {GOPATH: /go}}')).toEqual({
    directory: '/src',
    steps: [
      ['make', '-j2'],
      ['make', 'install'],
    ],
    environment: { GOPATH: '/go' },
    tree: 'install',
  });
  for (const wrong of [
    '{directory: src, steps: [[make]]}',
    '{directory: /src, steps: [make install]}',
    '{directory: /src, steps: []}',
    '{directory: /src, steps: [[]]}',
    '{directory: /src, steps: [[make]], environment: {"A B": x}}',
  ]) {
    expect(() => build(wrong), wrong).toThrow(/source\.build/);
  }
});

test.each([
  ['controller: {address: "10.0.0.1:7090"}\ninsecure: true\n', /insecure/],
  ['controller: {address: "127.0.0.1:7090"}\n', /tls, enrollment and insecure/],
  ['controller: {address: "127.0.0.1"}\ninsecure: true\n', /controller\.address/],
  ['insecure: true\n', /controller/],
  ['controller: {address: "127.0.0.1:1"}\ninsecure: true\nheartbeat_ms: soon\n', /heartbeat_ms/],
  ['controller: {address: "127.0.0.1:1"}\ninsecure: true\nrooot: /x\n', /rooot/],
  ['controller: {address: "127.0.0.1:1"}\ninsecure: true\nstate_dir: here\n', /state_dir/],
  ['controller: {address: "c:1"}\ntls: {certificate: /a, key: /b}\n', /authority/],
  ['controller: {address: "127.0.0.1:1"}\ninsecure: true\npackages: {trust: off, root: /r}\n', /trust and root/],
  ['controller: {address: "127.0.0.1:1"}\ninsecure: true\npeers: {listen: "10.0.0.1:7091"}\n', /peers: listen/],
  ['controller: {address: "c:1"}\nenrollment: {token_file: /t}\npeers: {listen: "0.0.0.0:7091"}\n', /give address/],
  [
    'controller: {address: "c:1"}\ntls: {certificate: /a, key: /b, authority: /c}\npeers: {listen: "h:1"}\n',
    /enrollment/,
  ],
  ['controller: {address: "127.0.0.1:1"}\ninsecure: true\npackages: {trust: maybe}\n', /packages.trust/],
  [': [', /YAML/],
])('%j is refused by the field', (text, message) => {
  expect(() => parseAgentConfig(text)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  expect(() => parseAgentConfig(text)).toThrow(message);
});
