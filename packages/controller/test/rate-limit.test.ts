import { networkInterfaces } from 'node:os';
import { expect, it } from 'vitest';
import { RestRig } from './rest-rig.ts';
import { usePostgres } from './support.ts';

const postgres = usePostgres();
const outside = Object.values(networkInterfaces())
  .flatMap((addresses) => addresses ?? [])
  .find(({ internal, family }) => !internal && family === 'IPv4')?.address;

it('who asks too often is refused before their token is looked at, and this machine is not', async (context) => {
  if (outside === undefined) context.skip('this machine has no address but loopback');
  const rest = { host: '0.0.0.0', port: 0, plaintext: true, requests_per_minute: 10 };
  const rig = await RestRig.open(await postgres.settings(), { rest });
  try {
    const url = rig.controller.restUrl.replace('0.0.0.0', outside ?? '');
    const ask = () => fetch(`${url}/v1/runs`, { headers: { authorization: 'Bearer guess' } });
    const statuses: number[] = [];
    for (let i = 0; i < 12; i++) statuses.push((await ask()).status);
    expect(statuses).toEqual([...Array(10).fill(401), 429, 429]);
    const refused = await ask();
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(await refused.json()).toMatchObject({ code: 'RATE_LIMITED', status: 429 });
    for (let i = 0; i < 12; i++) expect((await rig.ask('/v1/runs')).status).toBe(200);
  } finally {
    await rig.close();
  }
});
