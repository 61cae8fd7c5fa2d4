/** The three ways to show a run that is watched. */
import type { RunEventView, RunView } from '@kwfleet/core';
import { createLogUpdate } from 'log-update';
import { EXIT, exitOfRun } from './exit.ts';
import { choiceLines } from './render/run-panels.ts';
import { appendOutput, type RunScreen } from './render/run-state.ts';
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
  const ticker = setInterval(() => {
    frame += 1;
    redraw();
  }, 250);
  return {
    state(view) {
      state = { ...state, view };
      redraw();
    },
    event({ type, step, message }) {
      if (state === undefined) return;
      if (type === 'output') state = { ...state, tail: appendOutput(state.tail, step ?? '', message) };
      if (type === 'run-ended') state = { ...state, ending: message };
    },
    trouble(sentence) {
      if (state !== undefined) state = { ...state, trouble: sentence };
      redraw();
    },
    end(view, outcome) {
      clearInterval(ticker);
      if (state !== undefined) state = { ...state, view, trouble: undefined };
      redraw();
      update.done();
      if (outcome === 'left') terminal.lines(['', ...leftLines(view.id)]);
    },
  };
}

/** One line an event, each with its time: for files, pipes and journals. */
export function plainView(terminal: Terminal, nowMs: () => number): View {
  let runId = '';
  const say = (atMs: number, parts: readonly string[]) => {
    const stamp = new Date(atMs).toISOString().replace(/\.\d+Z$/, 'Z');
    terminal.line([stamp, ...parts.filter((part) => part !== '')].join('  '));
  };
  return {
    state(view) {
      runId = view.id;
    },
    event(event) {
      for (const parts of eventParts(event)) say(event.atMs, parts);
    },
    trouble(sentence, attempt) {
      // The first attempts, then ever more rarely: a night without the controller is no thousand lines.
      const isWorthALine = (attempt & (attempt - 1)) === 0;
      if (sentence !== undefined && isWorthALine) say(nowMs(), [oneLine(sentence)]);
    },
    end(view, outcome) {
      for (const line of outcome === 'left' ? leftLines(runId) : endLines(view)) say(nowMs(), [line]);
    },
  };
}

function eventParts({ type, node, step, phase, message }: RunEventView): string[][] {
  if (type !== 'output') {
    const about = step === undefined ? (node ?? '') : phase === undefined ? step : `${step} ${phase}`;
    return [[oneLine(about), oneLine(message)]];
  }
  const lines = clean(message)
    .split('\n')
    .filter((line) => line.trim() !== '');
  return lines.map((line) => [`${oneLine(node ?? step ?? '')} |`, line.trimEnd()]);
}

function endLines(view: RunView): string[] {
  const { hold, status, id } = view;
  const outcome = exitOfRun(status, hold);
  if (outcome !== EXIT.held || hold === undefined) {
    return [`run ${id} ${status}: ${view.done} of ${view.total} steps done; report: kwfleet run report ${id}`];
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
  };
}
