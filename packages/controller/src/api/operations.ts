/** `/healthz`, `/readyz`, `/metrics`: for those who run the controller. */
import { databaseNow } from '../store/nodes.ts';
import type { Api, ApiParts } from './api.ts';
import { measure } from './metrics.ts';

const open = { access: 'public' } as const;
const hidden = { hide: true } as const;

export function operationRoutes(app: Api, parts: ApiParts): void {
  app.get('/healthz', { config: open, schema: hidden }, async () => ({ status: 'ok' }));

  // An error answers 503 with its reason, as any other request without a database would.
  app.get('/readyz', { config: open, schema: hidden }, async () => {
    await databaseNow(parts.database);
    return { status: 'ready' };
  });

  const metrics = measure(app, parts);
  app.get('/metrics', { schema: hidden }, async (_request, reply) =>
    reply.type(metrics.contentType).send(await metrics.scrape()),
  );
}
