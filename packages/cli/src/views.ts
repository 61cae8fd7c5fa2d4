/** The three ways to show a run that is watched. */
import type { RunEventView, RunView } from '@kwfleet/core';
import { createLogUpdate } from 'log-update';
import { EXIT, exitOfRun } from './exit.ts';
import { outputOf } from './follow.ts';
import { choiceLines } from './render/run-panels.ts';
import { appendOutput, progressOf, type RunScreen } from './render/run-state.ts';
import { renderRun } from './render/run-tree.ts';
import { clean, oneLine } from './render/text.ts';
import type { Terminal } from './terminal.ts';
import type { View } from './watch.ts';

/** What a person who stopped watching must know. */
export const leftLines = (run: string): string[] => [
  'Stopped watching. The upgrade goes on.',
  `  kwfleet run watch ${run}   watches again`,
  `  kwfleet run pause ${run}   stops it before its next step`,
];

/** Redraws the picture in place, four times a second while the run is at work. */
export function liveView(terminal: Terminal, nowMs: () => number): View {
  // The type wants a whole stream; what it uses is what Output has.
  const update = createLogUpdate(terminal.out as unknown as NodeJS.WritableStream);
  let state: Omit<RunScreen, 'nowMs' | 'frame'> | undefined;
  let frame = 0;
  const draw = (height: number) => {
    if (state === undefined) return;
    const room = { width: (terminal.out.columns ?? 80) - 1, rows: height };
    update(renderRun({ ...state, nowMs: nowMs(), frame }, room, terminal.theme).join('\n'));
  };
  // One row is the cursor's own.
  const redraw = () => draw(Math.max(4, (terminal.out.rows ?? 24) - 1));
  const tick = () => {
    frame += 1;
    redraw();
  };
  let ticker: NodeJS.Timeout | undefined;
  return {
    state(view) {
      state = { ...state, view };
      ticker ??= setInterval(tick, 250);
      redraw();
    },
    event(event) {
      if (state === undefined) return;
      const { type, step = '', message } = event;
      if (type === 'output') state = { ...state, tail: appendOutput(state.tail, step, outputOf(event)) };
      if (type === 'run-ended') state = { ...state, ending: message };
    },
    trouble(sentence) {
      if (state !== undefined) state = { ...state, trouble: sentence };
      redraw();
    },
    end(view, outcome) {
      if (state !== undefined) state = { ...state, view, trouble: undefined };
      redraw();
      update.done();
      if (outcome === 'left') terminal.lines(['', ...leftLines(view.id)]);
    },
    close() {
      clearInterval(ticker);
      update.done();
    },
  };
}

/** One line an event, each with its time: for files, pipes and journals. */
export function plainView(terminal: Terminal, nowMs: () => number): View {
  let runId = '';
  const output = new OutputLines();
  const say = (atMs: number, parts: readonly string[]) => {
    const stamp = new Date(atMs).toISOString().replace(/\.\d+Z$/, 'Z');
    terminal.line([stamp, ...parts.filter((part) => part !== '')].join('  '));
  };
  return {
    state(view) {
      runId = view.id;
    },
    event(event) {
      const { type, node, step, atMs } = event;
      // One command at a time prints on a node: its lines are put together by the node's name.
      const source = node ?? step;
      const lines = type === 'output' ? output.push(source ?? '', outputOf(event)) : output.rest(source);
      for (const line of lines) say(atMs, [`${oneLine(line.source)} |`, line.text]);
      if (type !== 'output') say(atMs, [about(event), oneLine(event.message)]);
    },
    trouble(sentence, attempt) {
      // The first attempts, then ever more rarely: a night without the controller is no thousand lines.
      const isWorthALine = (attempt & (attempt - 1)) === 0;
      if (sentence !== undefined && isWorthALine) say(nowMs(), [oneLine(sentence)]);
    },
    end(view, outcome) {
      for (const line of outcome === 'left' ? leftLines(runId) : endLines(view)) say(nowMs(), [line]);
    },
    close() {},
  };
}

function about({ step, node, phase }: RunEventView): string {
  if (step === undefined) return oneLine(node ?? '');
  return oneLine(phase === undefined ? step : `${step} ${phase}`);
}

type OutputLine = { readonly source: string; readonly text: string };

/** Makes lines of output whose pieces end anywhere, without mixing sources. */
class OutputLines {
  readonly #open = new Map<string, string>();

  /** The lines that are whole now. */
  push(source: string, piece: string): OutputLine[] {
    const lines = `${this.#open.get(source) ?? ''}${piece}`.split('\n');
    // A line without end is cut: nobody reads it, and it must not fill the memory.
    this.#open.set(source, (lines.pop() ?? '').slice(-LONGEST_LINE));
    const texts = lines.map((line) => clean(line).trimEnd()).filter((line) => line !== '');
    return texts.map((text) => ({ source, text }));
  }

  /** What was left without a line end, by one source or by all. */
  rest(source: string | undefined): OutputLine[] {
    const sources = source === undefined ? [...this.#open.keys()] : [source];
    return sources.filter((name) => this.#open.has(name)).flatMap((name) => this.push(name, '\n'));
  }
}
const LONGEST_LINE = 4_000;

function endLines(view: RunView): string[] {
  const { hold, status, id } = view;
  const outcome = exitOfRun(status, hold);
  if (outcome !== EXIT.held || hold === undefined) {
    const { done, total } = progressOf(view);
    return [`run ${id} ${status}: ${done} of ${total} steps done; report: kwfleet run report ${id}`];
  }
  const where = hold.node === undefined ? '' : ` on ${hold.node}`;
  return [
    oneLine(`run ${id} is held${where}: ${hold.code}: ${hold.message}`),
    ...(hold.words === undefined ? [] : [oneLine(`it said: ${hold.words}`)]),
    oneLine(`do: ${hold.remedy}`),
    ...choiceLines(hold.choices, id).map((line) => line.trim()),
  ];
}

/** The events as the API gives them, one JSON object a line. */
export function jsonView(terminal: Terminal): View {
  return {
    state() {},
    event: (event) => terminal.jsonLine(event),
    trouble() {},
    end() {},
    close() {},
  };
}
