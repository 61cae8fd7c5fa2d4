/** Who may ask what. A listener that only this machine reaches needs no token; every other one does. */
import { FleetError } from '@kwfleet/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { isLoopback } from '../network.ts';
import { ROLES, type Role, verifyToken } from '../store/access.ts';
import type { Database } from '../store/database.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The least role; without it viewer for reading, operator for writing. `public` needs no token. */
    access?: Role | 'public';
    /** The answer holds a secret: it is never kept. */
    secret?: boolean;
  }
  interface FastifyRequest {
    /** Who asks, as the audit records it. */
    actor: string;
    role: Role;
  }
}

/** Checks every request before its body is read. */
export function guard(app: FastifyInstance, database: Database, tokensRequired: boolean): void {
  app.decorateRequest('actor', '');
  app.decorateRequest('role', 'viewer');
  app.addHook('onRequest', async (request) => {
    const { access } = request.routeOptions.config;
    if (access === 'public') return;
    const secret = bearer(request);
    if (secret === undefined && !tokensRequired) return admitLocal(request);
    if (secret === undefined) throw new FleetError('UNAUTHORIZED', 'this needs a token');
    const token = await verifyToken(database, secret);
    if (token === undefined) throw new FleetError('UNAUTHORIZED', 'the token is unknown, expired or revoked');
    const needed = access ?? (request.method === 'GET' || request.method === 'HEAD' ? 'viewer' : 'operator');
    if (ROLES.indexOf(token.role) < ROLES.indexOf(needed)) {
      throw new FleetError('FORBIDDEN', `this needs the role ${needed}; the token has ${token.role}`);
    }
    request.actor = `${token.name} (${token.id})`;
    request.role = token.role;
  });
}

function bearer(request: FastifyRequest): string | undefined {
  const { authorization } = request.headers;
  if (authorization === undefined) return undefined;
  return /^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? '';
}

/** What proxies add, those that add something: whoever they speak for is not on this machine. */
const FORWARDED = ['forwarded', 'via', 'x-forwarded-for', 'x-real-ip'] as const;

/** A web page elsewhere can make a browser on this machine ask us; its requests carry a foreign Origin or Host. */
function admitLocal(request: FastifyRequest): void {
  const { host = '', origin } = request.headers;
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  if (FORWARDED.some((header) => request.headers[header] !== undefined)) {
    throw new FleetError('FORBIDDEN', 'it was passed on by a proxy, and without a token only this machine may ask');
  }
  if (!isLoopback(name))
    throw new FleetError('FORBIDDEN', 'without a token only this machine may ask, by its own name');
  if (origin !== undefined && URL.parse(origin)?.host !== host) {
    throw new FleetError('FORBIDDEN', 'a page of another origin may not ask');
  }
  request.actor = 'local';
  request.role = 'admin';
}
