/** `/v1/transfers/plans`: what a transfer would carry from one cluster into another; nothing is touched. */
import { randomInt } from 'node:crypto';
import {
  type Inventory,
  makeTransferPlan,
  type PlanDraft,
  PlanView,
  TransferRequest,
  transferNode,
} from '@kwfleet/core';
import { eventually } from '../deadline.ts';
import { audit } from '../store/audit.ts';
import type { Database } from '../store/database.ts';
import { askForInventory, findInventory } from '../store/inventories.ts';
import { insertPlan, type PlanRow } from '../store/plans.ts';
import type { Api, ApiParts } from './api.ts';
import { type Fleet, readFleet, readFleetIn } from './fleet.ts';
import { freshen } from './freshen.ts';
import { planRow, planView } from './plans.ts';

/** A large cluster has many databases, and each is asked several questions. */
const PATIENCE_MS = 90_000;

export function transferRoutes(app: Api, { database }: ApiParts): void {
  app.post(
    '/v1/transfers/plans',
    {
      schema: {
        tags: ['transfers'],
        description:
          'Asks both clusters what they hold, and plans to export everything of the source and import it into the ' +
          'target. The run is started with POST /v1/runs, belongs to the target, and keeps runs of the source away.',
        body: TransferRequest,
        response: { 201: PlanView },
      },
    },
    async ({ body, actor }, reply) => {
      const request: SeededRequest = {
        ...body,
        options: { ...body.options, seed: body.options?.seed ?? randomInt(0x1_0000_0000) },
      };
      const told = await askBoth(database, request);
      const view = await database.transaction(async (sql) => {
        const fleet = await readFleetIn(sql);
        const draft = draftTransfer(fleet, request, told);
        const { id: cluster } = fleet.cluster(request.into);
        const row = planRow(draft, { cluster, request, createdAtMs: fleet.nowMs, createdBy: actor });
        await insertPlan(sql, row);
        const { source, into } = request;
        await audit(sql, actor, 'plan.create', { plan: row.id, source, into, blocked: row.blocked });
        return planView(row, fleet);
      });
      return reply.code(201).send(view);
    },
  );
}

export type SeededRequest = TransferRequest & { readonly options: { readonly seed: number } };

/** A stored request as that of a transfer, whose seed was drawn before it was stored; undefined for any other plan. */
export const transferRequestOf = ({ request }: PlanRow): SeededRequest | undefined =>
  'into' in request ? (request as SeededRequest) : undefined;

/** What both clusters hold now, or why one of them did not tell. */
export type Told = {
  readonly source: { readonly inventory?: Inventory; readonly failure?: string };
  readonly target: { readonly inventory?: Inventory; readonly failure?: string };
};

/** Throws CLUSTER_UNKNOWN or CLUSTER_AMBIGUOUS. */
export async function askBoth(database: Database, { source, into }: TransferRequest): Promise<Told> {
  await Promise.all([freshen(database, [source]), freshen(database, [into])]);
  const [ofSource, ofTarget] = await Promise.all([inventoryOf(database, source), inventoryOf(database, into)]);
  return { source: ofSource, target: ofTarget };
}

async function inventoryOf(database: Database, idOrName: string): Promise<Told['source']> {
  const fleet = await readFleet(database);
  const node = transferNode(fleet.cluster(idOrName), fleet.nowMs);
  if (node === undefined) return { failure: 'none of its nodes serves and is reported' };
  const request = await database.transaction((sql) => askForInventory(sql, node.node));
  const answer = await eventually(() => findInventory(database, request), { withinMs: PATIENCE_MS, everyMs: 100 });
  return answer ?? { failure: `${node.node} did not answer within ${PATIENCE_MS / 1000} s` };
}

/** The plan that this wish leads to now. */
export function draftTransfer(fleet: Fleet, request: SeededRequest, told: Told): PlanDraft {
  const side = (idOrName: string, { inventory, failure }: Told['source']) => {
    const cluster = fleet.cluster(idOrName);
    return { cluster, name: fleet.nameOf(cluster.id), inventory, ...(failure === undefined ? {} : { failure }) };
  };
  return makeTransferPlan({
    source: side(request.source, told.source),
    target: side(request.into, told.target),
    options: request.options,
    nowMs: fleet.nowMs,
  });
}

/** For the start of a run: asks anew, outside of its transaction. */
export async function askAgain(database: Database, row: PlanRow): Promise<Told | undefined> {
  const request = transferRequestOf(row);
  return request && askBoth(database, request);
}
