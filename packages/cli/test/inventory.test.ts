import type { NodeView } from '@kwfleet/core';
import { expect, it } from 'vitest';
import { installation, report } from '../../core/test/builders.ts';
import { nodeTable } from '../src/commands/inventory.ts';
import { theme } from '../src/render/theme.ts';

it('the table of nodes tells how each is deployed, how it speaks, and whether its store is encrypted', () => {
  const node = (id: string, change: Parameters<typeof installation>[0]): NodeView =>
    ({
      id,
      state: 'healthy',
      detail: '',
      connected: true,
      version: '3.0.0',
      method: 'script-bare',
      address: '10.0.0.1:26257',
      report: report(1, ['standalone', 1], { installation: installation(change) }),
    }) as NodeView;
  const table = { theme: theme({ unicode: true, color: false }), width: 200, nowMs: 0 };
  const lines = nodeTable(
    [
      node('plain', { security: 'insecure' }),
      node('secret', { security: 'tls', encrypted: true }),
      node('other', { security: 'tlcp' }),
    ],
    new Map(),
    table,
  );
  expect(lines.slice(1).map((line) => /script-bare(?:, \w+)*/.exec(line)?.[0])).toEqual([
    'script-bare',
    'script-bare, tls, encrypted',
    'script-bare, tlcp',
  ]);
});
