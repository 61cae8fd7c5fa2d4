/** The picture of a rollout: its waves, how many clusters stand how, what needs a person. Pure. */
import type { RolloutChecks, RolloutCluster, RolloutSummary, RolloutView } from '@kwfleet/core';
import { columns } from './columns.ts';
import type { Page } from './plan-page.ts';
import { count, dayTime, elapsed, ends, oneLine, pad, truncate, wrap } from './text.ts';
import type { Theme } from './theme.ts';

const BAR_WIDTH = 24;
const SHOWN_MAX = 12;

/** The lines of `kwfleet rollout show`. */
export function rolloutPage(view: RolloutView, { width = 100, theme }: Page): string[] {
  const { colors } = theme;
  const took = view.startedAtMs === undefined ? '' : elapsed((view.endedAtMs ?? view.nowMs) - view.startedAtMs);
  const title = `${colors.bold(oneLine(view.name))} ${theme.glyphs.arrow} ${oneLine(view.to)}  ${statusWord(view, theme)}`;
  return [
    ends(title, took, width, theme.glyphs.ellipsis),
    colors.dim(`${view.id}, asked for by ${oneLine(view.createdBy)}`),
    '',
    ...view.waves.map((wave) => waveLine(wave, view, theme)),
    ...(view.waves.length === 0 ? [] : ['', tally(view, theme)]),
    ...underWay(view, theme, width),
    ...needsPerson(view, theme, width),
  ].map((line) => truncate(line, width, theme.glyphs.ellipsis));
}

function waveLine(wave: RolloutView['waves'][number], view: RolloutView, theme: Theme): string {
  const { colors, glyphs } = theme;
  const clusters = wave.clusters.flatMap((id) => view.clusters[id] ?? []);
  const there = clusters.filter(({ status }) => status === 'succeeded' || status === 'skipped').length;
  const failed = clusters.filter(({ status }) => status === 'failed' || status === 'held').length;
  const [full, empty] = glyphs.ellipsis === '…' ? ['█', '░'] : ['#', '.'];
  const share = (n: number) => (clusters.length === 0 ? 0 : Math.round((n / clusters.length) * BAR_WIDTH));
  const bar =
    colors.green(full.repeat(share(there))) +
    colors.red(full.repeat(Math.min(BAR_WIDTH - share(there), share(failed)))) +
    colors.dim(empty.repeat(Math.max(0, BAR_WIDTH - share(there) - share(failed))));
  const marks = {
    waiting: colors.dim(glyphs.waiting),
    running: colors.cyan(glyphs.running),
    soaking: colors.cyan(glyphs.running),
    done: failed > 0 ? colors.yellow(glyphs.warn) : colors.green(glyphs.done),
  };
  const word = wave.status === 'done' ? '' : colors.dim(`  ${wave.status}`);
  const bad = failed > 0 ? colors.red(`  ${failed} failed`) : '';
  return `${marks[wave.status]} ${pad(oneLine(wave.name), 16)} ${bar}  ${there}/${clusters.length}${bad}${word}`;
}

function tally({ counts, budget }: RolloutView, { colors }: Theme): string {
  const parts = [
    colors.green(`${counts.succeeded} done`),
    ...(counts.skipped > 0 ? [`${counts.skipped} had it already`] : []),
    ...(counts.running > 0 ? [colors.cyan(`${counts.running} under way`)] : []),
    ...(counts.waiting > 0 ? [`${counts.waiting} to come`] : []),
    ...(counts.held > 0 ? [colors.yellow(`${counts.held} held`)] : []),
    ...(counts.failed > 0 ? [colors.red(`${counts.failed} failed`)] : []),
  ];
  return `  ${parts.join(', ')}; budget of failures: ${budget}`;
}

function underWay({ clusters, nowMs }: RolloutView, theme: Theme, width: number): string[] {
  const running = Object.values(clusters).filter(({ status }) => status === 'running');
  const lines = running.slice(0, SHOWN_MAX).map((cluster) => {
    const spent = cluster.startedAtMs === undefined ? '' : elapsed(nowMs - cluster.startedAtMs);
    return ends(
      `  ${theme.colors.cyan(theme.glyphs.running)} ${oneLine(cluster.name)}  ${theme.colors.dim(cluster.run ?? '')}`,
      spent,
      width,
    );
  });
  const more = running.length > SHOWN_MAX ? [`  and ${running.length - SHOWN_MAX} more`] : [];
  return running.length === 0 ? [] : ['', ...lines, ...more];
}

function needsPerson(view: RolloutView, theme: Theme, width: number): string[] {
  const { colors, glyphs } = theme;
  const lines: string[] = [];
  const failed = Object.values(view.clusters).filter(({ status }) => status === 'failed' || status === 'held');
  if (failed.length > 0)
    lines.push('', ...failed.slice(0, SHOWN_MAX).flatMap((cluster) => failure(cluster, theme, width)));
  if (view.waits !== undefined && view.status !== 'awaiting_approval') {
    const until =
      view.waits.untilMs === undefined
        ? ''
        : `, ${dayTime(view.waits.untilMs)} (in ${elapsed(view.waits.untilMs - view.nowMs)})`;
    lines.push('', ...wrap(`waits for ${oneLine(view.waits.message)}${until}`, width, '  '));
  }
  if (view.status === 'awaiting_approval') {
    for (const { scope, missing, people, policies } of view.approvals.filter((approval) => approval.missing > 0)) {
      const so = people.length === 0 ? '' : `; agreed: ${people.map(oneLine).join(', ')}`;
      lines.push(
        '',
        colors.yellow(
          `${glyphs.held} waits for ${count(missing, 'approval')} (${scope}), as ${policies.map(oneLine).join(', ')} asks${so}`,
        ),
      );
    }
    lines.push(`  hash     ${view.hash}`);
  }
  if (view.pause !== undefined) {
    lines.push(
      '',
      colors.yellow(colors.bold(`${glyphs.held} paused: ${view.pause.code}`)),
      ...wrap(oneLine(view.pause.message), width, '  '),
    );
  }
  if (view.reason !== undefined) lines.push('', ...wrap(oneLine(view.reason), width, '  '));
  if (view.choices.length > 0)
    lines.push('', ...view.choices.map((choice) => `  kwfleet rollout ${choice} ${view.id}`));
  return lines;
}

function failure(
  { name, status, code, message, run }: RolloutCluster,
  { colors, glyphs }: Theme,
  width: number,
): string[] {
  const title = `${status === 'held' ? colors.yellow(glyphs.held) : colors.red(glyphs.failed)} ${oneLine(name)}  ${code ?? ''}  ${colors.dim(run ?? 'not started')}`;
  return [`  ${title}`, ...wrap(oneLine(message ?? ''), width, '      ').slice(0, 2)];
}

function statusWord({ status }: Pick<RolloutSummary, 'status'>, { colors }: Theme): string {
  const word = status.replace('_', ' ');
  if (status === 'succeeded') return colors.green(word);
  if (status === 'incomplete' || status === 'aborted') return colors.red(word);
  return status === 'paused' || status === 'awaiting_approval' ? colors.yellow(word) : colors.cyan(word);
}

/** The lines of `kwfleet rollouts`. */
export function rolloutTable(items: readonly RolloutSummary[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0)
    return ['No rollout yet: `kwfleet rollout create -f FILE` makes one; docs/rollouts.md shows how.'];
  const rows = items.map((one) => {
    const { counts } = one;
    const all = Object.values(counts).reduce((sum, n) => sum + n, 0);
    const begins = one.startedAtMs ?? one.startAtMs;
    return [
      one.id,
      oneLine(one.name),
      one.to,
      statusWord(one, theme),
      one.wave === undefined ? '' : oneLine(one.wave),
      all === 0 ? '' : `${counts.succeeded + counts.skipped}/${all}`,
      counts.failed + counts.held === 0 ? '' : String(counts.failed + counts.held),
      begins === undefined ? '' : dayTime(begins),
    ];
  });
  const heading = ['ROLLOUT', 'NAME', 'TO', 'STATUS', 'WAVE', 'DONE', 'FAILED', 'BEGINS'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}

/** Clusters against checks: a column for each check that says something against any of them. */
export function checkMatrix(items: readonly RolloutChecks[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) return ['No cluster is selected.'];
  const { colors, glyphs } = theme;
  const codes = [
    ...new Set(
      items.flatMap(({ checks }) => checks.flatMap(({ code, verdict }) => (verdict === 'pass' ? [] : [code]))),
    ),
  ];
  const cell = (row: RolloutChecks, code: string): string => {
    const verdicts = row.checks.filter((check) => check.code === code).map(({ verdict }) => verdict);
    if (verdicts.some((verdict) => verdict === 'block' || verdict === 'unknown')) return colors.red(glyphs.failed);
    return verdicts.includes('warn') ? colors.yellow(glyphs.warn) : colors.green(glyphs.done);
  };
  const rows = items.map((row) => [
    oneLine(row.name),
    row.wave === '' ? colors.dim('none') : oneLine(row.wave),
    row.blocked ? colors.red('blocked') : colors.green('ready'),
    ...codes.map((code) => cell(row, code)),
  ]);
  const heading = ['CLUSTER', 'WAVE', 'CHECKS', ...codes];
  const [first = '', ...rest] = columns([heading, ...rows], undefined, glyphs.ellipsis);
  const table = [colors.dim(first), ...rest].map((line) =>
    width === undefined ? line : truncate(line, width, glyphs.ellipsis),
  );
  const blocked = items.filter((row) => row.blocked);
  const why = blocked.slice(0, 20).flatMap((row) => {
    const [check] = row.checks.filter(({ verdict }) => verdict === 'block' || verdict === 'unknown');
    return check === undefined ? [] : [`  ${oneLine(row.name)}: ${check.code}: ${oneLine(check.message)}`];
  });
  const more = blocked.length > 20 ? [`  and ${blocked.length - 20} more`] : [];
  const sum = `${count(items.length, 'cluster')}: ${items.length - blocked.length} ready, ${blocked.length} blocked`;
  return [...table, '', sum, ...why, ...more];
}
