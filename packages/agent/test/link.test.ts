import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import { type AgentMessage, agentGateway, type ControllerMessage, PROTOCOL } from '@kwfleet/protocol';
import pino from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { Link, type LinkOptions } from '../src/link.ts';
import { FakeClock, FakeHost, order } from './fake-host.ts';

type Call = grpc.ServerDuplexStream<AgentMessage, ControllerMessage>;

/** A gateway that welcomes everybody and notes what it is told, and an agent's link to it. */
async function linked(change: Partial<LinkOptions> = {}) {
  const calls: Call[] = [];
  const told: AgentMessage[] = [];
  const server = new grpc.Server();
  const connect = (call: Call) => {
    calls.push(call);
    call.on('data', (message: AgentMessage) => {
      told.push(message);
      if ('hello' in message) call.write({ welcome: { clockMs: 1, protocol: PROTOCOL, heartbeatMs: 1000 } });
    });
    call.on('error', () => {});
    call.on('end', () => call.end());
  };
  server.addService({ connect: agentGateway.connect }, { connect });
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  const link = new Link({
    address: `127.0.0.1:${port}`,
    identity: undefined,
    node: 'n1',
    agentVersion: '0',
    log: pino({ level: 'silent' }),
    opening: () => [],
    inHand: () => [],
    onAction: async () => {},
    onResultStored: async () => {},
    onReportRequest: () => {},
    onPrefetch: () => {},
    onInventoryRequest: () => {},
    ...change,
  });
  const stopping = new AbortController();
  let done: Promise<void> | undefined;
  onTestFinished(async () => {
    stopping.abort();
    await done;
    server.forceShutdown();
  });
  const run = async () => {
    done = link.run(stopping.signal);
    await expect.poll(() => link.connected).toBe(true);
  };
  return { link, calls, told, run };
}

const line = (at: number, text = `line ${at}\n`): AgentMessage => ({
  output: { action: order().id, offset: at, text },
});
const outputs = (told: readonly AgentMessage[]) =>
  told.flatMap((message) => ('output' in message ? message.output : []));

test('what the stream cannot take at once is kept: all output, and the newest of the rest', async () => {
  const { link, told, run } = await linked();
  await run();
  const report = await new FakeHost(new FakeClock()).observe();
  // All in one go, as the output of a command is read.
  const taken = [
    ...Array.from({ length: 1200 }, (_, at) => link.send(line(at))),
    link.send({ prefetched: { sha256: 'a'.repeat(64) } }),
    link.send({ prefetched: { sha256: 'b'.repeat(64) } }),
    link.send({ holdings: { sha256s: [] } }),
    link.send({ holdings: { sha256s: ['a'.repeat(64)] } }),
    link.send({ report: { ...report, serving: false } }),
    link.send({ report }),
  ];
  expect(taken).not.toContain(false);
  expect(link.send({ heartbeat: { clockMs: 1, serving: true, ready: true } })).toBe(false);
  await expect.poll(() => outputs(told).length).toBe(1200);
  expect(outputs(told).map(({ offset }) => offset)).toEqual(Array.from({ length: 1200 }, (_, at) => at));
  const others = () => told.filter((message) => !('output' in message || 'hello' in message));
  await expect
    .poll(others)
    .toMatchObject([
      { prefetched: { sha256: 'a'.repeat(64) } },
      { prefetched: { sha256: 'b'.repeat(64) } },
      { holdings: { sha256s: ['a'.repeat(64)] } },
      { report: { serving: true } },
    ]);
  await expect.poll(() => link.send({ heartbeat: { clockMs: 1, serving: true, ready: true } })).toBe(true);
});

test('a result overtakes no report that was told before it', async () => {
  const { link, told, run } = await linked();
  await run();
  const report = await new FakeHost(new FakeClock()).observe();
  for (let at = 0; at < 100; at++) link.send(line(at));
  link.send({ report });
  const action = order().id;
  link.send({
    result: { action, outcome: 'succeeded', disposition: 'done', newVersionStarted: true, phases: [], report },
  });
  await expect.poll(() => outputs(told).length).toBe(100);
  const kinds = () => told.flatMap((message) => Object.keys(message)).filter((kind) => /^re/.test(kind));
  await expect.poll(kinds).toEqual(['report', 'result']);
});

test('without a stream output waits, and what there is too much of says that it is missing', async () => {
  const { link, told, run } = await linked();
  expect(link.send({ holdings: { sha256s: [] } })).toBe(false);
  link.send({ progress: { action: order().id, phase: 'install', detail: 'installing', atMs: 1 } });
  for (let at = 0; at < 10_500; at++) link.send(line(at));
  await run();
  await expect.poll(() => outputs(told).at(-1)?.offset).toBe(10_499);
  const [first, ...rest] = outputs(told);
  expect(rest).toHaveLength(9_999);
  expect(first).toMatchObject({ offset: 0, text: expect.stringContaining('[501 lines are missing here') });
  expect(rest[0]?.offset).toBe(501);
});

test('long lines are bounded by their bytes', async () => {
  const { link, told, run } = await linked();
  for (let at = 0; at < 1000; at++) link.send(line(at, 'x'.repeat(16 * 1024)));
  await run();
  await expect.poll(() => outputs(told).at(-1)?.offset).toBe(999);
  const bytes = outputs(told).reduce((sum, { text }) => sum + text.length, 0);
  expect(bytes).toBeGreaterThan(7 * 1024 * 1024);
  expect(bytes).toBeLessThan(8 * 1024 * 1024);
});

test('an acknowledgement that cannot be journalled does not end the stream', async () => {
  let asked = 0;
  const { calls, told, run, link } = await linked({
    onResultStored: async () => {
      asked++;
      throw new FleetError('DISK_FULL', "the agent's journal cannot be written");
    },
    onReportRequest: () => link.send({ holdings: { sha256s: [] } }),
  });
  await run();
  calls[0]?.write({ resultStored: { action: order().id } });
  await expect.poll(() => asked).toBe(1);
  calls[0]?.write({ reportRequest: { images: [] } });
  await expect.poll(() => told.some((message) => 'holdings' in message)).toBe(true);
  expect(calls).toHaveLength(1);
});

test('an order that cannot be journalled ends the stream, and the next ones come at growing distances', async () => {
  const { calls, run, link } = await linked({
    onAction: () => Promise.reject(new FleetError('DISK_FULL', "the agent's journal cannot be written")),
  });
  await run();
  const begun: number[] = [];
  for (let stream = 1; stream <= 4; stream++) {
    calls.at(-1)?.write({ action: order() });
    await expect.poll(() => calls.length, { interval: 5 }).toBe(stream + 1);
    begun.push(performance.now());
    await expect.poll(() => link.connected).toBe(true);
  }
  // Each pause is at least the half of twice the one before.
  expect((begun[3] as number) - (begun[2] as number)).toBeGreaterThan(700);
});
