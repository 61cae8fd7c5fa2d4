/** I5: data is never put at risk: the old version is not put on data that the new one opened; nor is configuration left altered. */
import { ENDED } from '@kwfleet/core';
import type { Checker } from '../chronicle.ts';
import { compareReleases } from '../releases.ts';

export const i5: Checker = {
  invariant: 'I5',
  see(evidence, chronicle, fails) {
    if (evidence.type === 'command-began') {
      const { dataVersion } = chronicle.sim.host(evidence.node);
      // A downgrade exchanges the packages under data that it replaces before anything is started.
      const isDowngrade = chronicle.plan(chronicle.order(evidence.action)?.run ?? '')?.kind === 'downgrade';
      if (compareReleases(evidence.version, dataVersion) < 0 && !isDowngrade) {
        fails(`${evidence.version} is installed on ${evidence.node}, whose data ${dataVersion} has opened`);
      }
    }
    if (evidence.type === 'copied' && chronicle.sim.host(evidence.node).process !== null) {
      fails(`${evidence.node} is copied while its database runs`);
    }
    if (evidence.type === 'copied') {
      const from = chronicle.order(evidence.action)?.from;
      if (evidence.version !== from)
        fails(`data of ${evidence.version} are copied as those of ${from}, on ${evidence.node}`);
    }
    if (evidence.type === 'data-changed') {
      const run = chronicle.order(evidence.action)?.run ?? '';
      const kind = chronicle.plan(run)?.kind;
      if (kind !== 'restore' && kind !== 'downgrade') {
        fails(`the data of ${evidence.node} are ${evidence.how} by ${evidence.action}, whose plan is no restore`);
      }
      if (evidence.how !== 'discarded' && chronicle.sim.host(evidence.node).process !== null) {
        fails(`the data of ${evidence.node} are ${evidence.how} while its database runs`);
      }
    }
    if (evidence.type === 'started' && evidence.cause === 'system') {
      const old = compareReleases(evidence.version, evidence.dataVersion) < 0;
      // A start whose binary turns out to be another than the installed one is the host's doing.
      const asInstalled = chronicle.sim.host(evidence.node).packages.binary === evidence.version;
      if (old && asInstalled)
        fails(`${evidence.version} is started on ${evidence.node}, on data of ${evidence.dataVersion}`);
    }
  },
  end(chronicle, fails) {
    const { sim } = chronicle;
    for (const { id, plan, state } of sim.store.runs.values()) {
      if (plan.restore === undefined || !ENDED.has(state.status)) continue;
      const verified = plan.steps.every(
        ({ id: step, kind }) => kind !== 'verify' || state.steps[step]?.status === 'succeeded',
      );
      for (const { node, data, replaced } of sim.hosts) {
        if (state.status === 'succeeded' && data.version !== plan.to)
          fails(`${node} is restored and has data of ${data.version}`);
        const lost = data.version === plan.restore.version && !replaced.has(id);
        if (lost && !verified) fails(`what ${node} had before the restore ${id} is gone, and the run ${state.status}`);
      }
    }
    const succeeded = [...sim.store.runs.values()].at(-1)?.state.status === 'succeeded';
    if (![...sim.store.runs.values()].every(({ state }) => ENDED.has(state.status)) || !succeeded) return;
    for (const { node, completesUpgrade } of sim.hosts) {
      if (completesUpgrade) fails(`--upgrade-complete is left in the start arguments of ${node}`);
    }
  },
};
