/** `/v1/tokens`, `/v1/enrollments`, `/v1/audit`: access for people and for agents, and who did what. */
import { FleetError, page } from '@kwfleet/core';
import Type from 'typebox';
import {
  createEnrollment,
  createToken,
  type EnrollmentRow,
  listEnrollments,
  listTokens,
  revokeToken,
  type TokenRow,
} from '../store/access.ts';
import { audit, listAudit, verifyAudit } from '../store/audit.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';

const DAY_MS = 86_400_000;
/** A one-time token is for the installation at hand. */
const ENROLLMENT_MS = DAY_MS;
const strict = { additionalProperties: false } as const;
const Name = Type.String({ minLength: 1, maxLength: 100, pattern: '^[^\\u0000-\\u001f]*$' });
const Role = Type.Union([
  Type.Literal('viewer'),
  Type.Literal('operator'),
  Type.Literal('approver'),
  Type.Literal('admin'),
]);
const Lifetime = (maxMs: number) => Type.Optional(Type.Integer({ minimum: 1_000, maximum: maxMs }));
const Time = Type.Optional(Type.Integer());

const TokenRequest = Type.Object(
  { role: Role, name: Type.Optional(Name), expiresInMs: Lifetime(3_650 * DAY_MS) },
  strict,
);
const TokenView = Type.Object({
  id: Type.String(),
  role: Role,
  name: Type.String(),
  createdAtMs: Type.Integer(),
  createdBy: Type.String(),
  expiresAtMs: Time,
  revokedAtMs: Time,
});
const NewToken = Type.Object({ ...TokenView.properties, token: Type.String({ description: 'Shown this once.' }) });

const EnrollmentRequest = Type.Object(
  {
    node: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 253,
        description: 'Only for this node; needed for one that is known already.',
      }),
    ),
    expiresInMs: Lifetime(30 * DAY_MS),
  },
  strict,
);
const EnrollmentView = Type.Object({
  id: Type.String(),
  node: Type.Optional(Type.String()),
  createdAtMs: Type.Integer(),
  createdBy: Type.String(),
  expiresAtMs: Type.Integer(),
  usedAtMs: Time,
  usedBy: Type.Optional(Type.String()),
});
const NewEnrollment = Type.Object({
  ...EnrollmentView.properties,
  token: Type.String({ description: 'Shown this once.' }),
  /** How the agent knows that it speaks to this controller. */
  authority: Type.Optional(Type.String({ description: 'Certificate of the authority, PEM.' })),
  fingerprint: Type.Optional(Type.String({ description: 'SHA-256 of that certificate.' })),
  /** How the agent knows whose packages it may install. */
  packageRootSha256: Type.String({ description: 'SHA-256 of the root of trust for packages, as it is now.' }),
});

const AuditView = Type.Object({
  seq: Type.Integer(),
  atMs: Type.Integer(),
  actor: Type.String(),
  what: Type.String(),
  detail: Type.Unknown(),
  prevHash: Type.String(),
  hash: Type.String(),
});
const AuditQuery = Type.Object({
  ...PageQuery.properties,
  verify: Type.Optional(Type.Boolean({ description: 'Reads the whole chain and tells whether it is intact.' })),
});
const AuditPage = Type.Object({
  ...page(AuditView).properties,
  /** Of the whole chain, when asked to verify; the first record that does not follow, where there is one. */
  intact: Type.Optional(Type.Boolean()),
  brokenAt: Type.Optional(Type.Integer()),
});

const admin = { access: 'admin' } as const;
/** Absent rather than null, as everywhere. */
const present = <T extends object>(row: T) =>
  Object.fromEntries(Object.entries(row).filter(([, value]) => value !== null)) as Present<T>;
type Present<T> = { [K in keyof T as null extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as null extends T[K] ? K : never]?: NonNullable<T[K]>;
};

export function accessRoutes(app: Api, parts: ApiParts): void {
  tokenRoutes(app, parts);
  enrollmentRoutes(app, parts);
  auditRoutes(app, parts);
}

function tokenRoutes(app: Api, { database }: ApiParts): void {
  app.post(
    '/v1/tokens',
    {
      config: { ...admin, secret: true },
      schema: { tags: ['access'], body: TokenRequest, response: { 201: NewToken } },
    },
    async ({ body, actor }, reply) => {
      const { secret, row } = await database.transaction(async (sql) => {
        const { role, name = role, expiresInMs } = body;
        const made = await createToken(sql, { role, name, by: actor, ttlMs: expiresInMs });
        await audit(sql, actor, 'token.create', { token: made.row.id, role, name });
        return made;
      });
      return reply.code(201).send({ ...present<TokenRow>(row), token: secret });
    },
  );

  app.get(
    '/v1/tokens',
    { config: admin, schema: { tags: ['access'], querystring: PageQuery, response: { 200: page(TokenView) } } },
    async ({ query }) => {
      const { items, ...rest } = await listTokens(database, query);
      return { items: items.map((row) => present<TokenRow>(row)), ...rest };
    },
  );

  app.delete(
    '/v1/tokens/:id',
    { config: admin, schema: { tags: ['access'], params: IdParams, response: { 204: Type.Null() } } },
    async ({ params, actor }, reply) => {
      await database.transaction(async (sql) => {
        const revoked = await revokeToken(sql, params.id);
        if (!revoked) throw new FleetError('NOT_FOUND', `there is no token ${params.id} that opens anything`);
        await audit(sql, actor, 'token.revoke', { token: params.id });
      });
      return reply.code(204).send(null);
    },
  );
}

function enrollmentRoutes(app: Api, { database, authority, repository }: ApiParts): void {
  app.post(
    '/v1/enrollments',
    {
      config: { ...admin, secret: true },
      schema: { tags: ['access'], body: EnrollmentRequest, response: { 201: NewEnrollment } },
    },
    async ({ body, actor }, reply) => {
      const { secret, row } = await database.transaction(async (sql) => {
        const made = await createEnrollment(sql, {
          node: body.node,
          ttlMs: body.expiresInMs ?? ENROLLMENT_MS,
          by: actor,
        });
        await audit(sql, actor, 'enrollment.create', { enrollment: made.row.id, node: body.node ?? null });
        return made;
      });
      const trust = authority && { authority: authority.certificate, fingerprint: authority.fingerprint };
      const { root } = await repository.view();
      return reply
        .code(201)
        .send({ ...present<EnrollmentRow>(row), token: secret, ...trust, packageRootSha256: root.sha256 });
    },
  );

  app.get(
    '/v1/enrollments',
    { config: admin, schema: { tags: ['access'], querystring: PageQuery, response: { 200: page(EnrollmentView) } } },
    async ({ query }) => {
      const { items, ...rest } = await listEnrollments(database, query);
      return { items: items.map((row) => present<EnrollmentRow>(row)), ...rest };
    },
  );
}

function auditRoutes(app: Api, { database }: ApiParts): void {
  app.get(
    '/v1/audit',
    { config: admin, schema: { tags: ['access'], querystring: AuditQuery, response: { 200: AuditPage } } },
    async ({ query: { verify, ...query } }) => {
      const records = await listAudit(database, query);
      if (verify !== true) return records;
      const brokenAt = await verifyAudit(database);
      return { ...records, intact: brokenAt === undefined, ...(brokenAt !== undefined && { brokenAt }) };
    },
  );
}
