/** What every file of routes is given, and what they share. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify';
import Type from 'typebox';
import type { Target } from '../notifications/targets.ts';
import type { PackageRegistry } from '../packages/registry.ts';
import type { Database } from '../store/database.ts';
import type { Notices } from '../store/notices.ts';
import { PAGE_LIMIT } from '../store/page.ts';
import type { Repository } from '../trust/repository.ts';

export type Api = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

export type ApiParts = {
  readonly database: Database;
  readonly notices: Notices;
  readonly registry: PackageRegistry;
  readonly repository: Repository;
  /** From where packages may be taken: directories, and beginnings of addresses. */
  readonly packageSources: readonly string[];
  /** Tells enrolling agents whom they may trust; undefined on a plaintext gateway. */
  readonly authority: { readonly certificate: string; readonly fingerprint: string } | undefined;
  /** Whom this controller tells what. */
  readonly targets: readonly Target[];
  /** Agents that speak to this controller now. */
  readonly agentsConnected: () => number;
  /** Bytes of packages that this controller has sent. */
  readonly packageBytesSent: () => number;
};

export const PageQuery = Type.Object({
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 500, default: PAGE_LIMIT, description: 'How many at most.' }),
  ),
  cursor: Type.Optional(Type.String({ maxLength: 500, description: 'As the page before gave it.' })),
});

export const IdParams = Type.Object({ id: Type.String({ minLength: 1, maxLength: 253 }) });
