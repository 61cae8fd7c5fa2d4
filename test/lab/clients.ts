/** Clients in the lab's network: run until SIGTERM, then print what they felt as one line of JSON. */
import { once } from 'node:events';
import { startWorkload } from '../standin/workload.ts';

const workload = startWorkload({
  addresses: process.argv.slice(2),
  ratePerSecond: 40,
  timeoutMs: 30_000,
  retry: 'once-on-another-node',
});
await once(process, 'SIGTERM');
process.stdout.write(`${JSON.stringify(await workload.stop())}\n`);
process.exit(0);
