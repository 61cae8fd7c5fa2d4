/** I9: once the faults are over, every run ends, or is held with a reason that is true of the world, within bounded time. */
import { ENDED, type Hold } from '@kwfleet/core';
import type { Checker, Chronicle } from '../chronicle.ts';

export const i9: Checker = {
  invariant: 'I9',
  end(chronicle, fails) {
    const { sim } = chronicle;
    for (const run of sim.store.runs.values()) {
      const { id, state } = run;
      if (ENDED.has(state.status)) continue;
      // Until its window opens, it says why it waits and until when.
      if (state.status === 'scheduled' && (state.wait?.untilMs ?? 0) > chronicle.nowMs) continue;
      if (state.status !== 'held' || state.hold === undefined) {
        const running = Object.entries(state.steps).filter(([, { status }]) => status === 'running');
        const under = running.map(([step, { detail }]) => `${step} (${detail ?? ''})`).join(', ');
        fails(
          `${id} is still ${state.status} after ${chronicle.nowMs - run.movedAtMs} ms without news; under way: ${under}`,
        );
        continue;
      }
      const lie = refute(state.hold, chronicle);
      if (lie !== undefined) fails(`${id} is held with ${state.hold.code} (${state.hold.message}), but ${lie}`);
    }
  },
};

/** Why a hold's reason is not true of the world, or undefined when it is, or cannot be told from out here. */
function refute({ code, node, message }: Hold, chronicle: Chronicle): string | undefined {
  const { sim } = chronicle;
  const host = node === undefined ? undefined : sim.host(node);
  const agents = sim.hosts.map(({ node: name }) => sim.agents.get(name));
  switch (code) {
    case 'AGENT_LOST':
      return agents.every((agent) => agent?.connected === true) && sim.hosts.every(({ process }) => process?.ready)
        ? 'every agent is connected and every node serves'
        : undefined;
    case 'STEP_STALLED':
      return host?.command === null && agents.every((agent) => agent?.executor?.busy === false)
        ? 'no agent has anything in hand'
        : undefined;
    case 'INTERNAL':
      return 'that is no reason a person can act on';
    default:
      return refuteAftermath(message, host, chronicle);
  }
}

function refuteAftermath(
  message: string,
  host: { node: string } | undefined,
  chronicle: Chronicle,
): string | undefined {
  if (host === undefined) return undefined;
  const { packages, process } = chronicle.sim.host(host.node);
  if (message.includes('the old version was put back and serves')) {
    const record = chronicle.hosts.get(host.node);
    if (packages.half || packages.binary === undefined) return 'its packages are half installed';
    // It may have fallen by itself since.
    if (process === null && record?.downSinceMs === undefined) return 'it does not run';
  }
  return undefined;
}
