/** `/v1/backups`: what backups there are, and which of them can bring a cluster back. */
import { type BackupSet, BackupView, FleetError, judgeSet, page } from '@kwfleet/core';
import Type from 'typebox';
import { findBackup, listBackups } from '../store/backups.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';
import { type Fleet, readFleet } from './fleet.ts';

export function backupRoutes(app: Api, { database }: ApiParts): void {
  app.get(
    '/v1/backups',
    {
      schema: {
        tags: ['backups'],
        querystring: Type.Object({ ...PageQuery.properties, cluster: Type.Optional(Type.String({ minLength: 1 })) }),
        response: { 200: page(BackupView) },
      },
    },
    async ({ query: { cluster, ...query } }) => {
      const fleet = await readFleet(database);
      const id = cluster === undefined ? undefined : fleet.cluster(cluster).id;
      const { items, ...rest } = await listBackups(database, { ...query, cluster: id });
      return { items: items.map((set) => backupView(set, fleet)), ...rest };
    },
  );

  app.get(
    '/v1/backups/:id',
    { schema: { tags: ['backups'], params: IdParams, response: { 200: BackupView } } },
    async ({ params }) => {
      const set = await findBackup(database, params.id);
      if (set === undefined) throw new FleetError('BACKUP_UNKNOWN', `there is no backup ${params.id}`);
      return backupView(set, await readFleet(database));
    },
  );
}

function backupView(set: BackupSet, fleet: Fleet): BackupView {
  return {
    ...set,
    clusterName: fleet.nameOf(set.cluster),
    madeAtMs: Math.max(0, ...set.parts.map(({ madeAtMs }) => madeAtMs)),
    sizeBytes: set.parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    problems: judgeSet(set).map(({ message, node }) => (node === undefined ? message : `${node}: ${message}`)),
  };
}
