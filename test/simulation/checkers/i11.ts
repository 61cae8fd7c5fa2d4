/** I11: what comes again changes nothing: an order never takes down the process that it started itself, nor installs twice. */
import type { Checker, Chronicle } from '../chronicle.ts';

/** By chronicle: which order started the process that runs on a host, and what each order did to it. */
type Memory = {
  readonly startedBy: Map<string, string>;
  readonly readyBy: Map<string, string>;
  readonly done: Set<string>;
};
const memories = new WeakMap<Chronicle, Memory>();

function memoryOf(chronicle: Chronicle): Memory {
  const memory = memories.get(chronicle) ?? { startedBy: new Map(), readyBy: new Map(), done: new Set() };
  memories.set(chronicle, memory);
  return memory;
}

export const i11: Checker = {
  invariant: 'I11',
  see(evidence, chronicle, fails) {
    if (!('node' in evidence)) return;
    const memory = memoryOf(chronicle);
    const { node } = evidence;
    if (evidence.type === 'started') {
      memory.startedBy.set(node, evidence.action ?? '');
      memory.readyBy.delete(node);
    }
    if (evidence.type === 'ready') memory.readyBy.set(node, memory.startedBy.get(node) ?? '');
    if (evidence.type === 'unready' && evidence.cause !== 'system') memory.readyBy.delete(node);
    if (evidence.type !== 'deed') return;
    if (chronicle.sim.store.orders.get(evidence.action)?.result !== undefined) {
      fails(`${evidence.deed} on ${node} by ${evidence.action}, whose result is stored already`);
    }
    const disrupts = evidence.deed === 'drain' || evidence.deed === 'stop' || evidence.deed === 'install-online';
    const order = chronicle.order(evidence.action);
    const atTarget = chronicle.hosts.get(node)?.version === order?.to;
    if (disrupts && atTarget && memory.readyBy.get(node) === evidence.action) {
      fails(`${evidence.deed} on ${node} by ${evidence.action}, which had brought it back itself`);
    }
  },
};
