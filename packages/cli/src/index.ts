/** What other parts of kwfleet (the demo, tests) use of the command line. */
export { Client } from './client.ts';
export { EXIT, exitOfRun } from './exit.ts';
export { type Followed, follow } from './follow.ts';
export { createProgram, main } from './main.ts';
export type { RunScreen } from './render/run-state.ts';
export { renderRun } from './render/run-tree.ts';
export { terminal } from './terminal.ts';
export { jsonView, liveView, plainView } from './views.ts';
export { watchRun } from './watch.ts';
