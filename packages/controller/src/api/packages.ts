/** `/v1/packages`: what can be installed. A package comes as the raw body of its request. */
import type { Readable } from 'node:stream';
import { FleetError, GivenVersion, type ImageRequest, ImportRequest, PackageView, page } from '@kwfleet/core';
import Type from 'typebox';
import type { Added } from '../packages/registry.ts';
import { openSource } from '../packages/sources.ts';
import { findPackage, listPackages } from '../store/packages.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';

const UPLOAD_TYPES = ['application/gzip', 'application/x-gzip', 'application/x-tar', 'application/octet-stream'];
/** Nothing moves on the connection while a large package is looked into. */
const UPLOAD_IDLE_MS = 15 * 60_000;
const FileName = Type.Optional(Type.String({ minLength: 1, maxLength: 500 }));

export function packageRoutes(app: Api, { database, registry, repository, packageSources }: ApiParts): void {
  // The body goes to disk as it comes, however large; the registry sets the limit.
  app.addContentTypeParser(UPLOAD_TYPES, (_request, payload, done) => done(null, payload));

  app.get(
    '/v1/packages',
    { schema: { tags: ['packages'], querystring: PageQuery, response: { 200: page(PackageView) } } },
    async ({ query }) => {
      const signed = await repository.signed(database);
      const { items, ...rest } = await listPackages(database, query);
      return { items: items.map((item) => ({ ...item, signed: signed.has(item.id) })), ...rest };
    },
  );

  app.get(
    '/v1/packages/:id',
    { schema: { tags: ['packages'], params: IdParams, response: { 200: PackageView } } },
    async ({ params }) => {
      const found = await findPackage(database, params.id);
      if (found === undefined) throw new FleetError('PACKAGE_UNKNOWN', `there is no package ${params.id}`);
      return { ...found, signed: (await repository.signed(database)).has(found.id) };
    },
  );

  app.post(
    '/v1/packages',
    {
      schema: {
        tags: ['packages'],
        description:
          'The package itself is the body: a .tar.gz, or the .tar of an image. `version` is for an image alone, where neither ' +
          'its tag nor its label tells it. 200 when it was there already.',
        consumes: UPLOAD_TYPES,
        querystring: Type.Object({ filename: FileName, fileName: FileName, version: Type.Optional(GivenVersion) }),
        response: { 200: PackageView, 201: PackageView },
      },
    },
    async (request, reply) => {
      const { filename, fileName, version } = request.query;
      const bytes = request.body as Readable | undefined;
      if (typeof bytes?.pipe !== 'function') {
        throw new FleetError('BAD_REQUEST', 'body: send the file itself, as application/gzip');
      }
      request.raw.setTimeout(UPLOAD_IDLE_MS);
      const name = filename ?? fileName ?? 'package.tar.gz';
      try {
        const added = await registry.add(bytes, { name, version }, request.actor);
        const signed = (await repository.signed(database)).has(added.package.id);
        return await reply.code(added.added ? 201 : 200).send({ ...added.package, signed });
      } finally {
        // A client that still sends reads no answer before it is done.
        request.raw.resume();
      }
    },
  );

  app.post(
    '/v1/packages/import',
    {
      schema: {
        tags: ['packages'],
        description:
          'The controller takes a package by itself: a file of its machine or an address, where its configuration allows ' +
          '(packages.sources), or an image that hosts pull by its digest. 200 when it was there already.',
        body: ImportRequest,
        response: { 200: PackageView, 201: PackageView },
      },
    },
    async (request, reply) => {
      const { body, actor } = request;
      request.raw.setTimeout(UPLOAD_IDLE_MS);
      const added = 'image' in body ? await registry.addImage(body, actor) : await importFile(body, actor);
      const signed = (await repository.signed(database)).has(added.package.id);
      return reply.code(added.added ? 201 : 200).send({ ...added.package, signed });
    },
  );

  async function importFile(source: Exclude<ImportRequest, ImageRequest>, actor: string): Promise<Added> {
    const { bytes, fileName } = await openSource(source, packageSources);
    const { sha256, version } = source;
    return registry.add(bytes, { name: fileName, sha256, version }, actor);
  }

  app.delete(
    '/v1/packages/:id',
    { schema: { tags: ['packages'], params: IdParams, response: { 204: Type.Null({ description: 'It is gone.' }) } } },
    async ({ params, actor }, reply) => {
      await registry.remove(params.id, actor);
      return reply.code(204).send(null);
    },
  );
}
