/** `/v1/trust`: who may publish packages. People sign on their own machines; here signed metadata comes and goes. */
import { FleetError, SignedMetadata, TrustView } from '@kwfleet/core';
import Type from 'typebox';
import type { Api, ApiParts } from './api.ts';

const Role = Type.Union([Type.Literal('root'), Type.Literal('targets')]);
const Name = Type.String({ pattern: '^([1-9][0-9]*\\.)?(root|targets|snapshot|timestamp)\\.json$', maxLength: 40 });

export function trustRoutes(app: Api, { repository }: ApiParts): void {
  app.get('/v1/trust', { schema: { tags: ['trust'], response: { 200: TrustView } } }, async () => repository.view());

  app.get(
    '/v1/trust/metadata/:name',
    {
      schema: {
        tags: ['trust'],
        description: 'Metadata of The Update Framework exactly as it was signed: `root.json`, `3.root.json`, ...',
        params: Type.Object({ name: Name }),
        response: { 200: SignedMetadata },
      },
    },
    async ({ params }) => parsed(await repository.metadata(params.name), params.name),
  );

  app.get(
    '/v1/trust/staged/:role',
    {
      schema: {
        tags: ['trust'],
        description: 'What waits for the signatures of more people.',
        params: Type.Object({ role: Role }),
        response: { 200: SignedMetadata },
      },
    },
    async ({ params }) => parsed(await repository.staged(params.role), `staged ${params.role}`),
  );

  // Who may send it does not matter much: what counts is who signed it.
  for (const [role, access] of [
    ['root', 'admin'],
    ['targets', 'operator'],
  ] as const) {
    app.post(
      `/v1/trust/${role}`,
      {
        config: { access },
        schema: {
          tags: ['trust'],
          description: 'Publishes signed metadata, or keeps it until enough people have signed the same.',
          body: SignedMetadata,
          response: { 200: TrustView },
        },
      },
      async ({ body, actor }) => repository.submit(role, JSON.stringify(body), actor),
    );
  }
}

/** Written again it is the same text: it was written by JSON.stringify before. */
function parsed(text: string | undefined, what: string): SignedMetadata {
  if (text === undefined) throw new FleetError('NOT_FOUND', `there is no ${what}`);
  return JSON.parse(text) as SignedMetadata;
}
