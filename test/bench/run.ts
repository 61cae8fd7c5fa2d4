/** `npm run bench [-- NAME]`: one JSON line a figure. What is compared is compared within one run. */
import { distribution } from './distribution.ts';
import { overhead } from './overhead.ts';
import { simulator } from './simulator.ts';

export type Figure = {
  readonly bench: string;
  readonly figure: string;
  readonly value: number;
  readonly unit: string;
  /** Fails when it is more than this. */
  readonly bound?: number;
  /** Fails when it is less than this. */
  readonly atLeast?: number;
};

const BENCHES: Readonly<Record<string, () => Promise<Figure[]>>> = { distribution, overhead, simulator };

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in BENCHES));
if (unknown.length > 0) {
  console.error(`no such benchmark: ${unknown.join(', ')}; there are: ${Object.keys(BENCHES).join(', ')}`);
  process.exit(2);
}
for (const [name, bench] of Object.entries(BENCHES)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  for (const figure of await bench()) {
    console.log(JSON.stringify(figure));
    if (figure.value > (figure.bound ?? Number.POSITIVE_INFINITY)) process.exitCode = 1;
    if (figure.value < (figure.atLeast ?? Number.NEGATIVE_INFINITY)) process.exitCode = 1;
  }
}
