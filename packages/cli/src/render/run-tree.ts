/**
 * The picture of a run: cluster, nodes, the steps of those in work, the command's last lines, and the hold or the end.
 * A pure function of the screen's state and the room there is; never taller or wider than that room.
 */
import { ENDED, type Step, type StepState } from '@kwfleet/core';
import { footer, type Paint } from './run-panels.ts';
import {
  type NodeOnScreen,
  type NodeStanding,
  nodesOf,
  progressOf,
  type RunScreen,
  type StepOnScreen,
  tailOf,
} from './run-state.ts';
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
  const { done, total } = progressOf(view);
  const right = `${done}/${count(total, 'step')}  ${runTime(screen)}`.trimEnd();
  const name = colors.bold(oneLine(view.clusterName || view.cluster));
  // What can be missed first stands last: a narrow terminal cuts there.
  const left = `${icon(paint, statusStanding(view.status))} ${name}  ${statusWord(paint)}  ${way}  ${colors.dim(view.topology)}`;
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
    case 'returned':
      return colors.yellow(glyphs.returned);
    case 'waiting':
      return colors.dim(glyphs.waiting);
    default:
      return standing satisfies never;
  }
}

type Branch = { readonly first: string; readonly rest: readonly string[] };

function tree(paint: Paint, nodes: readonly NodeOnScreen[], fitting: Fitting): string[] {
  const { glyphs, colors } = paint.theme;
  const folded = new Map<NodeStanding, Branch>();
  const fold = (standing: NodeStanding, words: string) => {
    const those = nodes.filter((node) => node.standing === standing);
    const text = colors.dim(`${count(those.length, 'node')} ${words}`);
    if (those.length > 1) folded.set(standing, { first: `${icon(paint, standing)} ${text}`, rest: [] });
  };
  if (fitting.foldDone) fold('done', 'done');
  if (fitting.foldWaiting) fold('between', 'wait for the others');
  if (fitting.foldWaiting) fold('waiting', 'waiting');
  const single = nodes.filter(({ standing }) => !folded.has(standing));
  const shown = new Set(worstFirst(single).slice(0, fitting.most));
  const hidden = single.length - shown.size;
  const more = { first: colors.dim(`${glyphs.ellipsis} and ${count(hidden, 'node')} more`), rest: [] };
  const branches = [
    ...optional(folded.get('done')),
    ...single.filter((node) => shown.has(node)).map((node) => branchOf(paint, node, fitting)),
    ...optional(hidden > 0 ? more : undefined),
    ...optional(folded.get('between')),
    ...optional(folded.get('waiting')),
  ];
  return branches.flatMap((branch, at) => {
    const isLast = at === branches.length - 1;
    const trunk = colors.dim(isLast ? '   ' : `${glyphs.bar}  `);
    const first = `${colors.dim(isLast ? glyphs.last : glyphs.branch)} ${branch.first}`;
    return [first, ...branch.rest.map((line) => `${trunk}${line}`)];
  });
}

const optional = <T>(value: T | undefined): T[] => (value === undefined ? [] : [value]);

const WORST: readonly NodeStanding[] = ['held', 'failed', 'active', 'between', 'waiting', 'returned', 'done'];
const worstFirst = (nodes: readonly NodeOnScreen[]): NodeOnScreen[] =>
  [...nodes].sort((a, b) => WORST.indexOf(a.standing) - WORST.indexOf(b.standing));

function branchOf(paint: Paint, on: NodeOnScreen, fitting: Fitting): Branch {
  const { screen, theme } = paint;
  const { colors, glyphs } = theme;
  const nameWidth = Math.min(24, Math.max(...screen.view.plan.nodes.map(({ node }) => node.length)));
  const name = pad(truncate(oneLine(on.node.node), nameWidth, glyphs.ellipsis), nameWidth);
  const address = paint.width < 70 ? '' : `  ${colors.dim(oneLine(on.node.address))}`;
  const versions = versionsOf(on, paint);
  const spent = on.startedAtMs === undefined ? '' : elapsed((on.endedAtMs ?? lastMoment(screen)) - on.startedAtMs);
  const isQuiet = QUIET.has(on.standing);
  const note = on.note === '' ? '' : `  ${colors.dim(on.note)}`;
  const left = `${icon(paint, on.standing)} ${isQuiet ? name : colors.bold(name)}${address}  ${versions}${note}`;
  const first = ends(left, colors.dim(spent), paint.width - 3, glyphs.ellipsis);
  if (isQuiet) return { first, rest: [] };
  const steps = fitting.steps === 'all' ? on.steps : on.steps.filter(isCurrent);
  return { first, rest: steps.flatMap((step) => stepLines(paint, step, fitting)) };
}

function versionsOf({ node, standing }: NodeOnScreen, { screen, theme }: Paint): string {
  const [from, to] = [oneLine(node.from), oneLine(screen.view.to)];
  if (standing === 'done') return theme.colors.green(to);
  return standing === 'waiting' || standing === 'returned' ? from : `${from} ${theme.glyphs.arrow} ${to}`;
}

/** Nothing happens on these now: one line is enough. */
const QUIET: ReadonlySet<NodeStanding> = new Set(['waiting', 'between', 'returned', 'done']);

const isCurrent = ({ state }: StepOnScreen): boolean =>
  state.status === 'running' || state.status === 'failed' || state.waiting !== undefined;
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
  const sinceMs = state.waiting?.sinceMs ?? state.startedAtMs;
  const spent = sinceMs === undefined ? '' : elapsed((state.endedAtMs ?? lastMoment(screen)) - sinceMs);
  const isQuiet = !isCurrent({ step, state });
  const kind = isQuiet ? colors.dim(pad(step.kind, 8)) : pad(step.kind, 8);
  const mark = icon(paint, state.waiting === undefined ? STEP_STANDING[state.status] : 'active');
  const left = `  ${mark} ${kind} ${isQuiet ? colors.dim(oneLine(step.title)) : stepWords(step, state, paint)}`;
  const lines = [ends(left, colors.dim(spent), width - 3, glyphs.ellipsis)];
  const isUnderWay = state.status === 'running' && state.phase !== undefined && step.phases.length > 1;
  if (fitting.phases && isUnderWay) lines.push(phaseStrip(paint, step.phases, state));
  return lines;
}

/** What a step is doing, waits for, or failed of. */
function stepWords(step: Step, state: StepState, { screen, theme: { colors } }: Paint): string {
  const again = state.attempt > 1 ? colors.yellow(` (attempt ${state.attempt})`) : '';
  const helper = state.executor === undefined || state.executor === step.node ? '' : ` by ${oneLine(state.executor)}`;
  if (state.waiting !== undefined) return `${colors.yellow('waits:')} ${oneLine(state.waiting.message)}`;
  if (state.status === 'failed') {
    const { hold } = screen.view;
    // The whole outcome is in the report; the hold that the failure led to tells the same.
    const message = state.result?.failure?.message ?? (hold?.step === step.id ? hold.message : 'it failed');
    return `${state.phase === undefined ? '' : `${state.phase}: `}${oneLine(message)}${again}`;
  }
  const what = [state.phase ?? '', oneLine(state.detail ?? '')].filter((text) => text !== '').join(': ');
  return `${what === '' ? oneLine(step.title) : what}${colors.dim(helper)}${again}`;
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
  if (tail === undefined || most === 0 || ENDED.has(view.status)) return [];
  const step = [...view.plan.steps, ...view.plan.backOut].find(({ id }) => id === tail.step);
  // Once its step succeeded, what a command said is of no interest any more; after a failure it is of the most.
  if (view.steps[tail.step]?.status === 'succeeded') return [];
  const { colors, glyphs } = theme;
  const lines = tailOf(tail, most).map((line) => truncate(line, width - 4, glyphs.ellipsis));
  if (lines.length === 0) return [];
  const where = step === undefined ? '' : ` of ${oneLine(step.node)}`;
  return ['', colors.dim(`  output${where}`), ...lines.map((line) => `  ${colors.dim(`${glyphs.bar} ${line}`)}`)];
}
