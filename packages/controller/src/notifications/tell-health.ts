/** What is told of nodes that get unwell, and well again. */
import { notificationsOfHealth } from '@kwfleet/core';
import type { OnHealthChange } from '../health/watch-health.ts';
import { notify } from '../store/notifications.ts';
import { statusOfRuns } from '../store/runs.ts';

/** A node that is first seen unwell is no news; one that a running upgrade takes down is meant to be down, and its run tells. */
export const notifyOfHealth: OnHealthChange = async (sql, changes, fleet) => {
  const statuses = await statusOfRuns(
    sql,
    changes.flatMap(({ run }) => run ?? []),
  );
  const told = changes.flatMap(({ kind, id, cluster, was, state, detail, run }) => {
    if (kind !== 'node' || was === undefined || cluster === null) return [];
    if (run !== undefined && statuses.get(run) === 'running') return [];
    return [{ cluster, clusterName: fleet.nameOf(cluster), node: id, was, state, detail }];
  });
  for (const notification of notificationsOfHealth(told)) await notify(sql, notification);
};
