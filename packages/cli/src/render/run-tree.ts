/**
 * The picture of a run: cluster, nodes, the steps of those in work, the command's last lines, and the hold or the end.
 * A pure function of the screen's state and the room there is; never taller or wider than that room.
 */
import { ENDED, type StepState } from '@kwfleet/core';
import { footer, type Paint } from './run-panels.ts';
import { type NodeOnScreen, type NodeStanding, nodesOf, type RunScreen, type StepOnScreen } from './run-state.ts';
import { count, elapsed, ends, oneLine, pad, truncate } from './text.ts';
import type { Theme } from './theme.ts';

export type Room = { readonly width: number; readonly rows: number };

/** What is left out when the room gets short, least missed first. Each row is tried until the picture fits. */
const FITTINGS = [
  { foldDone: false, foldWaiting: false, steps: 'all', tail: 5, phases: true, most: Number.POSITIVE_INFINITY },
  { foldDone: false, foldWaiting: true, steps: 'all', tail: 5, phases: true, most: Number.POSITIVE_INFINITY },
  { foldDone: true, foldWaiting: true, steps: 'all', tail: 4, phases: true, most: Number.POSITIVE_INFINITY },
  { foldDone: true, foldWaiting: true, steps: 'current', tail: 3, phases: true, most: Number.POSITIVE_INFINITY },
  { foldDone: true, foldWaiting: true, steps: 'current', tail: 1, phases: false, most: Number.POSITIVE_INFINITY },
  { foldDone: true, foldWaiting: true, steps: 'current', tail: 0, phases: false, most: 8 },
  { foldDone: true, foldWaiting: true, steps: 'current', tail: 0, phases: false, most: 3 },
  { foldDone: true, foldWaiting: true, steps: 'current', tail: 0, phases: false, most: 1 },
] as const;
type Fitting = (typeof FITTINGS)[number];

/** The lines of the picture. */
export function renderRun(screen: RunScreen, room: Room, theme: Theme): string[] {
  const paint: Paint = { screen, width: Math.max(20, room.width), theme };
  const nodes = nodesOf(screen.view);
  let lines: string[] = [];
  for (const fitting of FITTINGS) {
    const tail = tailLines(paint, fitting.tail);
    lines = [...header(paint), ...tree(paint, nodes, fitting), ...tail, ...footer(paint)];
    if (lines.length <= room.rows) break;
  }
  // Of a picture that still does not fit, the end matters most: that is where a hold and its choices stand.
  if (lines.length > room.rows) lines = [...lines.slice(0, 1), ...lines.slice(lines.length - room.rows + 1)];
  return lines.slice(0, room.rows).map((line) => truncate(line, paint.width, theme.glyphs.ellipsis));
}

function header(paint: Paint): string[] {
  const { screen, width, theme } = paint;
  const { colors, glyphs } = theme;
  const { view } = screen;
  const from = [...new Set(view.plan.nodes.map((node) => node.from))].join(', ');
  const way = `${oneLine(from)} ${glyphs.arrow} ${oneLine(view.to)}`;
  const right = `${view.done}/${count(view.total, 'step')}  ${runTime(screen)}`.trimEnd();
  const name = colors.bold(oneLine(view.clusterName || view.cluster));
  const left = `${icon(paint, statusStanding(view.status))} ${name}  ${view.topology}  ${way}  ${statusWord(paint)}`;
  return [ends(left, right, width, glyphs.ellipsis)];
}

function runTime({ view, nowMs }: RunScreen): string {
  return view.startedAtMs === undefined ? '' : elapsed((view.endedAtMs ?? nowMs) - view.startedAtMs);
}

function statusStanding(status: RunScreen['view']['status']): NodeStanding {
  if (status === 'succeeded') return 'done';
  if (status === 'failed' || status === 'aborted') return 'failed';
  if (status === 'held' || status === 'paused') return 'held';
  return status === 'running' ? 'active' : 'waiting';
}

function statusWord({ screen: { view }, theme: { colors } }: Paint): string {
  const word = view.status.replace('_', ' ');
  const pausing = view.pauseRequested && view.status === 'running' ? colors.yellow(', pauses after this step') : '';
  if (view.status === 'succeeded') return colors.green(word);
  if (view.status === 'failed' || view.status === 'aborted') return colors.red(word);
  if (view.status === 'held' || view.status === 'paused') return colors.yellow(colors.bold(word));
  return `${colors.cyan(word)}${pausing}`;
}

/** The sign of a node, a step or the whole run. */
function icon({ screen, theme }: Paint, standing: NodeStanding): string {
  const { colors, glyphs, spinner } = theme;
  switch (standing) {
    case 'done':
      return colors.green(glyphs.done);
    case 'active':
      return colors.cyan(spinner[screen.frame % spinner.length] ?? glyphs.running);
    case 'between':
      return colors.cyan(glyphs.running);
    case 'held':
      return colors.yellow(glyphs.held);
    case 'failed':
      return colors.red(glyphs.failed);
    case 'waiting':
      return colors.dim(glyphs.waiting);
    default:
      return standing satisfies never;
  }
}

type Branch = { readonly first: string; readonly rest: readonly string[] };

function tree(paint: Paint, nodes: readonly NodeOnScreen[], fitting: Fitting): string[] {
  const { glyphs, colors } = paint.theme;
  const branches: Branch[] = [];
  const fold = (standing: NodeStanding, folded: boolean, words: string) => {
    const those = nodes.filter((node) => node.standing === standing);
    if (!folded || those.length < 2) return false;
    branches.push({
      first: `${icon(paint, standing)} ${colors.dim(`${count(those.length, 'node')} ${words}`)}`,
      rest: [],
    });
    return true;
  };
  const isFolded = {
    done: fold('done', fitting.foldDone, 'done'),
    waiting: false,
  };
  const atWork = nodes.filter(({ standing }) => standing !== 'done' && standing !== 'waiting');
  const shown = new Set(worstFirst(atWork).slice(0, fitting.most));
  for (const node of nodes) {
    if (node.standing === 'done' ? isFolded.done : node.standing === 'waiting') continue;
    if (node.standing !== 'done' && !shown.has(node)) continue;
    branches.push(branchOf(paint, node, fitting));
  }
  if (atWork.length > shown.size) {
    branches.push({
      first: colors.dim(`${glyphs.ellipsis} and ${count(atWork.length - shown.size, 'node')} more at work`),
      rest: [],
    });
  }
  if (!fold('waiting', fitting.foldWaiting, 'waiting')) {
    const waiting = nodes.filter(({ standing }) => standing === 'waiting');
    branches.push(...waiting.map((node) => branchOf(paint, node, fitting)));
  }
  return branches.flatMap((branch, at) => {
    const isLast = at === branches.length - 1;
    const trunk = colors.dim(isLast ? '   ' : `${glyphs.bar}  `);
    const first = `${colors.dim(isLast ? glyphs.last : glyphs.branch)} ${branch.first}`;
    return [first, ...branch.rest.map((line) => `${trunk}${line}`)];
  });
}

const WORST: readonly NodeStanding[] = ['held', 'failed', 'active', 'between', 'waiting', 'done'];
const worstFirst = (nodes: readonly NodeOnScreen[]): NodeOnScreen[] =>
  [...nodes].sort((a, b) => WORST.indexOf(a.standing) - WORST.indexOf(b.standing));

function branchOf(paint: Paint, on: NodeOnScreen, fitting: Fitting): Branch {
  const { screen, theme } = paint;
  const { colors, glyphs } = theme;
  const nameWidth = Math.min(24, Math.max(...screen.view.plan.nodes.map(({ node }) => node.length)));
  const name = pad(truncate(oneLine(on.node.node), nameWidth, glyphs.ellipsis), nameWidth);
  const address = paint.width < 70 ? '' : `  ${colors.dim(oneLine(on.node.address))}`;
  const { from } = on.node;
  const { to } = screen.view;
  const versions =
    on.standing === 'done' ? colors.green(to) : on.standing === 'waiting' ? from : `${from} ${glyphs.arrow} ${to}`;
  const spent = on.startedAtMs === undefined ? '' : elapsed((on.endedAtMs ?? lastMoment(screen)) - on.startedAtMs);
  const label = on.standing === 'waiting' || on.standing === 'done' ? name : colors.bold(name);
  const left = `${icon(paint, on.standing)} ${label}${address}  ${versions}`;
  const first = ends(left, colors.dim(spent), paint.width - 3, glyphs.ellipsis);
  if (on.standing === 'waiting' || on.standing === 'done') return { first, rest: [] };
  const steps = fitting.steps === 'all' ? on.steps : on.steps.filter(isCurrent);
  return { first, rest: steps.flatMap((step) => stepLines(paint, step, fitting)) };
}

const isCurrent = ({ state }: StepOnScreen) => state.status === 'running' || state.status === 'failed';
const lastMoment = ({ view, nowMs }: RunScreen): number => view.endedAtMs ?? nowMs;

const STEP_STANDING: Record<StepState['status'], NodeStanding> = {
  pending: 'waiting',
  running: 'active',
  succeeded: 'done',
  failed: 'failed',
};

function stepLines(paint: Paint, { step, state }: StepOnScreen, fitting: Fitting): string[] {
  const { screen, theme, width } = paint;
  const { colors, glyphs } = theme;
  const room = width - 5;
  const kind = pad(step.kind, 8);
  const again = state.attempt > 1 ? colors.yellow(` (attempt ${state.attempt})`) : '';
  const mark = icon(paint, STEP_STANDING[state.status]);
  const spent =
    state.startedAtMs === undefined
      ? ''
      : colors.dim(elapsed((state.endedAtMs ?? lastMoment(screen)) - state.startedAtMs));
  if (state.status === 'pending' || state.status === 'succeeded') {
    return [
      ends(`  ${mark} ${colors.dim(kind)} ${colors.dim(oneLine(step.title))}${again}`, spent, room, glyphs.ellipsis),
    ];
  }
  const helper = state.executor !== undefined && state.executor !== step.node ? ` by ${oneLine(state.executor)}` : '';
  const what = [state.phase ?? '', oneLine(state.detail ?? '')].filter((text) => text !== '').join(': ');
  const words = what === '' ? oneLine(step.title) : what;
  const lines = [ends(`  ${mark} ${kind} ${words}${colors.dim(helper)}${again}`, spent, room, glyphs.ellipsis)];
  if (fitting.phases && step.phases.length > 1 && state.phase !== undefined)
    lines.push(phaseStrip(paint, step.phases, state));
  return lines;
}

/** `interlock ✔  drain ✔  stop ◐  install ·  start ·` */
function phaseStrip(paint: Paint, phases: readonly string[], state: StepState): string {
  const { colors } = paint.theme;
  const current = phases.indexOf(state.phase ?? '');
  const parts = phases.map((phase, at) => {
    if (at < current) return `${colors.dim(phase)} ${icon(paint, 'done')}`;
    if (at === current) return `${colors.bold(phase)} ${icon(paint, STEP_STANDING[state.status])}`;
    return `${colors.dim(phase)} ${icon(paint, 'waiting')}`;
  });
  return `             ${parts.join('  ')}`;
}

function tailLines({ screen, theme, width }: Paint, most: number): string[] {
  const { tail, view } = screen;
  if (tail === undefined || most === 0 || tail.lines.length === 0 || ENDED.has(view.status)) return [];
  const { colors, glyphs } = theme;
  const step = view.plan.steps.find(({ id }) => id === tail.step);
  const where = step === undefined ? '' : ` of ${oneLine(step.node)}`;
  const lines = tail.lines
    .slice(-most)
    .map((line) => `  ${colors.dim(`${glyphs.bar} ${truncate(line, width - 4, glyphs.ellipsis)}`)}`);
  return ['', colors.dim(`  output${where}`), ...lines];
}
