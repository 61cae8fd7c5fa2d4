/** `/v1/notifications`: what people were told, what is on its way, and the dead letters. */
import { randomUUID } from 'node:crypto';
import { DeliveryView, FleetError, page, TargetView } from '@kwfleet/core';
import Type from 'typebox';
import { send } from '../notifications/send.ts';
import { hostOf } from '../notifications/targets.ts';
import { audit } from '../store/audit.ts';
import { databaseNow } from '../store/nodes.ts';
import { listDeliveries, resend } from '../store/notifications.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';

const Nothing = Type.Optional(Type.Union([Type.Object({}, { additionalProperties: false }), Type.Null()]));

export function notificationRoutes(app: Api, { database, targets }: ApiParts): void {
  app.get(
    '/v1/notifications',
    {
      schema: {
        tags: ['notifications'],
        description: 'Newest first. `status=dead`: what could not be delivered, and why.',
        querystring: Type.Object({ ...PageQuery.properties, status: Type.Optional(DeliveryView.properties.status) }),
        response: { 200: page(DeliveryView) },
      },
    },
    async ({ query }) => listDeliveries(database, query),
  );

  app.post(
    '/v1/notifications/:id/resend',
    {
      schema: {
        tags: ['notifications'],
        description: 'Tries a dead letter again.',
        params: IdParams,
        body: Nothing,
        response: { 202: Type.Object({ id: Type.String() }) },
      },
    },
    async ({ params: { id }, actor }, reply) => {
      await database.transaction(async (sql) => {
        if (!(await resend(sql, id))) throw new FleetError('NOT_FOUND', `there is no dead letter ${id}`);
        await audit(sql, actor, 'notification.resend', { delivery: id });
      });
      return reply.code(202).send({ id });
    },
  );

  app.get(
    '/v1/notification-targets',
    {
      schema: {
        tags: ['notifications'],
        description: "Of this controller's configuration, without addresses and secrets.",
        response: { 200: Type.Object({ items: Type.Array(TargetView) }) },
      },
    },
    async () => ({
      items: targets.map((target) => ({
        name: target.name,
        kind: target.kind,
        host: hostOf(target),
        events: target.events ?? [],
        labels: target.labels ?? {},
      })),
    }),
  );

  app.post(
    '/v1/notification-targets/:id/test',
    {
      schema: {
        tags: ['notifications'],
        description: 'Sends a message to the target now, and answers what came of it.',
        params: IdParams,
        body: Nothing,
        response: { 200: Type.Object({ delivered: Type.Literal(true) }) },
      },
    },
    async ({ params: { id: name }, actor }) => {
      const target = targets.find((one) => one.name === name);
      if (target === undefined) throw new FleetError('NOT_FOUND', `this controller has no target ${name}`);
      await database.transaction((sql) => audit(sql, actor, 'notification.test', { target: name }));
      const content = {
        event: 'test',
        severity: 'info',
        title: `A test for ${name}`,
        lines: [`${actor} asked for it. What reaches you here reaches you on the night it matters.`],
        clusters: [],
      } as const;
      const message = {
        id: `test-${randomUUID()}`,
        atMs: await databaseNow(database),
        content: { ...content, lines: [...content.lines], clusters: [] },
      };
      const sent = await send(target, message);
      if (!sent.ok) throw new FleetError('NOTIFICATION_FAILED', `${name} did not take it: ${sent.reason}`);
      return { delivered: true as const };
    },
  );
}
