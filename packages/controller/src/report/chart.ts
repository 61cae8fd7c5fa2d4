/** The picture of a run: a row a node, time to the right, what was done in between. SVG, drawn here. */
import type { Phase } from '@kwfleet/core';
import { html, type Markup } from './markup.ts';
import type { RunReport, Work } from './run-report.ts';
import { clock, lasted } from './words.ts';

const WIDTH = 1000;
const LEFT = 150;
const ROW = 26;
const TOP = 8;
const AXIS = 26;
/** More rows than these say nothing to an eye; the table below has them all. */
const NODES_MAX = 60;
const LABEL_MAX = 20;

/** What a phase means for whoever uses the database. */
const TONE: Partial<Record<Phase, string>> = {
  fetch: 'fetch',
  drain: 'away',
  stop: 'away',
  install: 'away',
  'install-online': 'away',
  start: 'away',
  'put-back': 'away',
};

type Bar = { readonly fromMs: number; readonly toMs: number; readonly tone: string; readonly title: string };

export function chart(report: RunReport): Markup {
  const { run, nodes, work, holds } = report;
  const endMs = run.endedAtMs ?? report.madeAtMs;
  const beginMs = Math.min(run.startedAtMs ?? run.createdAtMs, ...work.map(({ fromMs }) => fromMs));
  if (work.length === 0 || endMs <= beginMs) return html`<p class="none">Nothing was begun.</p>`;
  const shown = nodes.slice(0, NODES_MAX);
  const x = (atMs: number) =>
    LEFT + ((Math.min(endMs, Math.max(beginMs, atMs)) - beginMs) / (endMs - beginMs)) * (WIDTH - LEFT);
  const height = TOP + shown.length * ROW + AXIS;
  const bottom = TOP + shown.length * ROW;
  const held = holds.map(({ fromMs, toMs = endMs, code }) =>
    rect(x(fromMs), TOP, x(toMs) - x(fromMs), bottom - TOP, 'held', `held: ${code}, ${lasted(fromMs, toMs)}`),
  );
  const rows = shown.map(({ node }, at) => {
    const y = TOP + at * ROW;
    const label = node.length > LABEL_MAX ? `${node.slice(0, LABEL_MAX - 1)}…` : node;
    const bars = work.filter((one) => one.node === node).flatMap((one) => barsOf(one, endMs));
    return html`<line class="row" x1="${String(LEFT)}" x2="${String(WIDTH)}" y1="${n(y + ROW)}" y2="${n(y + ROW)}"/>
<text class="name" x="${String(LEFT - 10)}" y="${n(y + ROW / 2 + 4)}">${label}</text>
${bars.map((bar) => rect(x(bar.fromMs), y + 5, Math.max(2, x(bar.toMs) - x(bar.fromMs)), ROW - 10, bar.tone, bar.title))}`;
  });
  const more =
    nodes.length > shown.length
      ? html`<p class="note">The first ${String(NODES_MAX)} of ${String(nodes.length)} nodes.</p>`
      : '';
  return html`<figure>
<svg viewBox="0 0 ${String(WIDTH)} ${String(height)}" role="img" aria-label="what was done on each node, over time">
${held}${rows}${axis(beginMs, endMs, x, bottom)}
</svg>
<figcaption>${legend(holds.length > 0)}</figcaption>${more}
</figure>`;
}

/** A step is drawn as what it is; the parts of it in which the node took no clients over that, where the host told them. */
function barsOf(work: Work, endMs: number): Bar[] {
  const { fromMs, toMs = endMs, kind, title, outcome } = work;
  const whole = kind === 'fetch' ? 'fetch' : outcome === 'failed' ? 'failed' : 'look';
  const bars: Bar[] = [{ fromMs, toMs, tone: whole, title: `${title}: ${lasted(fromMs, toMs)}` }];
  for (const { phase, startedAtMs, endedAtMs } of work.phases) {
    // The host's clock may differ from ours: what it says is kept within the step.
    const [from, to] = [Math.max(fromMs, startedAtMs), Math.min(toMs, endedAtMs)];
    const tone = TONE[phase];
    if (tone === 'away' && to > from)
      bars.push({ fromMs: from, toMs: to, tone, title: `${phase}: ${lasted(from, to)}` });
  }
  return bars;
}

const n = (value: number): string => value.toFixed(1);

const rect = (x: number, y: number, width: number, height: number, tone: string, title: string): Markup =>
  html`<rect class="${tone}" x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}" rx="2"><title>${title}</title></rect>`;

const STEPS_MS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400].map(
  (s) => s * 1000,
);

function axis(beginMs: number, endMs: number, x: (atMs: number) => number, y: number): Markup {
  const stepMs = STEPS_MS.find((ms) => (endMs - beginMs) / ms <= 8) ?? Math.ceil((endMs - beginMs) / 8);
  const ticks: number[] = [];
  for (let atMs = Math.ceil(beginMs / stepMs) * stepMs; atMs <= endMs; atMs += stepMs) ticks.push(atMs);
  return html`${ticks.map(
    (atMs) => html`<line class="tick" x1="${n(x(atMs))}" x2="${n(x(atMs))}" y1="${String(TOP)}" y2="${n(y + 4)}"/>
<text class="time" x="${n(Math.min(WIDTH - 30, x(atMs)))}" y="${n(y + 18)}">${clock(atMs)}</text>`,
  )}`;
}

const legend = (held: boolean): Markup[] =>
  [
    ['fetch', 'package brought'],
    ['look', 'checked, verified, watched'],
    ['away', 'takes no clients'],
    ['failed', 'failed'],
    ...(held ? [['held', 'held']] : []),
  ].map(([tone = '', words = '']) => html`<span><i class="${tone}"></i>${words}</span>`);
