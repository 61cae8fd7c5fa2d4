/** `npm run simulate -- --seeds FROM..TO [--without SAFEGUARD] [--topology T] [--trace] [--threads N] [--keep-going]` */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import type { Topology } from '@kwfleet/core';
import { fromEventLoop, withoutRealTime } from './determinism.ts';
import { simulate } from './run.ts';
import { isSafeguard, SAFEGUARDS } from './safeguards.ts';
import { BATCH, type Range, rate, simulateRange } from './threads.ts';

const SHOWN_FAILURES = 5;
const TOPOLOGIES: readonly string[] = ['multi-replica', 'single-replica', 'standalone'];

type Arguments = Range & { readonly trace: boolean };

function readArguments(): Arguments {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '1..1000' },
      without: { type: 'string' },
      topology: { type: 'string' },
      trace: { type: 'boolean', default: false },
      threads: { type: 'string' },
      'keep-going': { type: 'boolean', default: false },
    },
  });
  const [from = Number.NaN, to = from] = values.seeds.split('..').map(Number);
  const { without, topology } = values;
  if (!Number.isInteger(from) || !Number.isInteger(to)) throw new Error('--seeds takes FROM..TO');
  if (without !== undefined && !isSafeguard(without)) {
    throw new Error(`--without takes one of ${Object.keys(SAFEGUARDS).join(', ')}`);
  }
  if (topology !== undefined && !TOPOLOGIES.includes(topology)) {
    throw new Error(`--topology takes one of ${TOPOLOGIES.join(', ')}`);
  }
  const threads = Math.max(
    1,
    Math.min(Number(values.threads ?? availableParallelism()), Math.ceil((to - from + 1) / BATCH)),
  );
  const keepGoing = values['keep-going'];
  return { from, to, without, topology: topology as Topology | undefined, trace: values.trace, threads, keepGoing };
}

/** How a run is repeated. */
function commandFor(seed: number, { without, topology }: Arguments): string {
  const more = `${without === undefined ? '' : ` --without ${without}`}${topology === undefined ? '' : ` --topology ${topology}`}`;
  return `npm run simulate -- --seeds ${seed}..${seed}${more} --trace`;
}

/** Everything about one run, for reading. */
async function show(seed: number, wish: Arguments): Promise<void> {
  const { topology, without } = wish;
  const outcome = await fromEventLoop(() => withoutRealTime(() => simulate({ seed, topology, without })));
  console.log(`\nseed ${seed}: ${outcome.topology}, ${outcome.status}, trace hash ${outcome.hash.toString(16)}`);
  console.log(`faults: ${outcome.faults()}`);
  const { plan } = outcome;
  if (plan !== undefined) {
    console.log(`plan: to ${plan.to}, ${plan.options.route}, options ${JSON.stringify(plan.options)}`);
    for (const step of plan.steps)
      console.log(`  ${step.id} [${step.phases.join(' ')}] needs ${step.needs.join(' ') || 'nothing'}`);
    for (const step of plan.backOut) console.log(`  on abort: ${step.id} [${step.phases.join(' ')}]`);
  }
  for (const line of outcome.trace()) console.log(line);
  for (const { invariant, message, atMs } of outcome.violations)
    console.log(`VIOLATION ${invariant} at ${atMs}: ${message}`);
  console.log(`again: ${commandFor(seed, wish)}`);
}

async function main(): Promise<void> {
  const wish = readArguments();
  if (wish.from === wish.to && wish.trace) await show(wish.from, wish);
  const totals = await simulateRange(wish, (soFar) => {
    if (process.stderr.isTTY)
      process.stderr.write(`\r${soFar.runs} of ${wish.to - wish.from + 1} runs, ${rate(soFar)} runs/s `);
  });
  if (process.stderr.isTTY) process.stderr.write('\n');
  const hours = Math.round(totals.virtualMs / 3_600_000);
  console.log(`${totals.runs} runs of ${hours} virtual hours, ${totals.events} events, ${rate(totals)} runs/s`);
  for (const [key, count] of [...totals.outcomes].sort()) console.log(`  ${key}: ${count}`);
  if (totals.failures.length === 0) return console.log('no invariant was violated');
  totals.failures.sort((a, b) => a.seed - b.seed);
  const [first] = totals.failures;
  if (first !== undefined && !wish.trace && !wish.keepGoing) await show(first.seed, wish);
  console.log(`\n${totals.failures.length} of ${totals.runs} runs violated an invariant:`);
  for (const { seed, messages } of totals.failures.slice(0, wish.keepGoing ? 40 : SHOWN_FAILURES)) {
    console.log(`  seed ${seed}: ${messages.join('; ')}\n    again: ${commandFor(seed, wish)}`);
  }
  process.exitCode = 1;
}

await main();
