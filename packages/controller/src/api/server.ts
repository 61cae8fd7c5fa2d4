/** The REST server: what every request goes through, and where the routes are. */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import rateLimit from '@fastify/rate-limit';
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import { TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox';
import { FleetError } from '@kwfleet/core';
import fastify, { type FastifyInstance, LogController } from 'fastify';
import type { Logger } from 'pino';
import type { ControllerConfig } from '../config.ts';
import { isLoopback } from '../network.ts';
import { guard } from './access.ts';
import { accessRoutes } from './access-routes.ts';
import type { Api, ApiParts } from './api.ts';
import { approvalRoutes } from './approvals.ts';
import { backupRoutes } from './backups.ts';
import { honourIdempotencyKeys } from './idempotency.ts';
import { inventoryRoutes } from './inventory.ts';
import { notificationRoutes } from './notifications.ts';
import { operationRoutes } from './operations.ts';
import { packageRoutes } from './packages.ts';
import { planRoutes } from './plans.ts';
import { prefetchRoutes } from './prefetches.ts';
import { answerWithProblem } from './problems.ts';
import { rolloutReportRoutes } from './rollout-report.ts';
import { rolloutRoutes } from './rollouts.ts';
import { runEventRoutes } from './run-events.ts';
import { runReportRoutes } from './run-report.ts';
import { runRoutes } from './runs.ts';
import { transferRoutes } from './transfers.ts';
import { trustRoutes } from './trust.ts';
import { windowRoutes } from './windows.ts';

export type RestServer = { readonly url: string; close(): Promise<void> };

/** A connection on which nothing moves for so long is closed; streams of events ping more often. */
const IDLE_MS = 120_000;
const BODY_MAX_BYTES = 1024 * 1024;

/** Listens; with port 0 on a free one. Throws UNAVAILABLE when the address cannot be had. */
export async function startRest(config: ControllerConfig['rest'], parts: ApiParts, log: Logger): Promise<RestServer> {
  const app = await buildApp(config, parts, log);
  try {
    await app.listen({ host: config.host, port: config.port });
  } catch (cause) {
    await app.close();
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FleetError('UNAVAILABLE', `rest ${config.host}:${config.port}: ${reason}`, { cause });
  }
  const address = app.server.address();
  const port = typeof address === 'object' && address !== null ? address.port : config.port;
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;
  return { url: `${config.tls ? 'https' : 'http'}://${host}:${port}`, close: () => app.close() };
}

async function buildApp(config: ControllerConfig['rest'], parts: ApiParts, log: Logger): Promise<FastifyInstance> {
  const options = {
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_MAX_BYTES,
    connectionTimeout: IDLE_MS,
    forceCloseConnections: true,
    genReqId: () => randomUUID(),
    ...(config.tls && { https: await readTls(config.tls) }),
  };
  const app = fastify(options) as unknown as FastifyInstance;
  app.setValidatorCompiler(TypeBoxValidatorCompiler as never);
  // Answers are typed by the compiler; their schemas are for the documentation.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.setErrorHandler(answerWithProblem as never);
  app.setNotFoundHandler((request, reply) => {
    answerWithProblem(
      new FleetError('NOT_FOUND', `there is nothing at ${request.method} ${request.url}`),
      request,
      reply,
    );
  });
  app.addHook('onSend', async (request, reply) => {
    reply.header('x-request-id', request.id).header('x-content-type-options', 'nosniff');
  });
  await document(app);
  await limitRate(app, config.requestsPerMinute);
  guard(app, parts.database, !isLoopback(config.host));
  honourIdempotencyKeys(app, parts.database);
  await app.register(async (scope) => addRoutes(scope as unknown as Api, parts));
  app.get('/openapi.json', { config: { access: 'public' }, schema: { hide: true } }, async () => app.swagger());
  await app.ready();
  return app;
}

function addRoutes(app: Api, parts: ApiParts): void {
  // First: it measures what follows.
  operationRoutes(app, parts);
  inventoryRoutes(app, parts);
  packageRoutes(app, parts);
  prefetchRoutes(app, parts);
  trustRoutes(app, parts);
  planRoutes(app, parts);
  transferRoutes(app, parts);
  runRoutes(app, parts);
  runEventRoutes(app, parts);
  runReportRoutes(app, parts);
  approvalRoutes(app, parts);
  windowRoutes(app, parts);
  notificationRoutes(app, parts);
  backupRoutes(app, parts);
  rolloutRoutes(app, parts);
  rolloutReportRoutes(app, parts);
  accessRoutes(app, parts);
}

/** Before tokens are looked up: nobody keeps the database busy by guessing. Whoever is on this machine is not counted. */
async function limitRate(app: FastifyInstance, max: number): Promise<void> {
  await app.register(rateLimit, {
    global: false,
    max,
    timeWindow: 60_000,
    allowList: (request) => isLoopback(request.ip.replace(/^::ffff:/, '')),
    errorResponseBuilder: (_request, { after }) =>
      new FleetError('RATE_LIMITED', `more than ${max} requests a minute from this address; again in ${after}`),
  });
  app.addHook('onRequest', app.rateLimit());
}

async function document(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'kwfleet',
        version: '1',
        description: 'Errors are problem documents (RFC 9457) with a stable `code`. POST takes `Idempotency-Key`.',
      },
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      security: [{ token: [] }],
    },
  });
  await app.register(swaggerUi, { routePrefix: '/docs' });
}

async function readTls({ certificate, key }: { certificate: string; key: string }) {
  try {
    const [cert, secret] = await Promise.all([readFile(certificate), readFile(key)]);
    return { cert, key: secret };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FleetError('CONFIG_INVALID', `rest.tls: ${reason}`, { cause });
  }
}
