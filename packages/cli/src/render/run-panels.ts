/** The foot of a run's picture: the hold with what to do about it, the end, or the broken connection. Pure. */
import type { Choice, Hold, RunView } from '@kwfleet/core';
import { exitOfRun } from '../exit.ts';
import { progressOf, type RunScreen } from './run-state.ts';
import { clock, count, elapsed, oneLine, wrap } from './text.ts';
import type { Theme } from './theme.ts';

/** What drawing needs at hand everywhere. */
export type Paint = { readonly screen: RunScreen; readonly width: number; readonly theme: Theme };

/** The lines below the tree. */
export function footer(paint: Paint): string[] {
  const { screen, theme, width } = paint;
  const { view, trouble } = screen;
  const lines: string[] = [];
  if (view.hold !== undefined && view.status === 'held') lines.push('', ...holdPanel(view.hold, view.id, paint));
  if (view.status === 'awaiting_approval') lines.push('', ...approvalPanel(paint));
  if (view.status === 'scheduled') lines.push('', ...waitPanel(paint));
  if (view.overrun !== undefined) lines.push('', ...labelled('window', oneLine(view.overrun), width));
  if (view.status === 'paused') lines.push('', ...pausePanel(paint));
  if (exitOfRun(view.status, view.hold) !== undefined && view.status !== 'held') lines.push('', ...ending(paint));
  if (trouble !== undefined) {
    lines.push(
      '',
      ...wrap(`${theme.glyphs.warn} ${oneLine(trouble)}`, width, '  ').map((line) => theme.colors.yellow(line)),
    );
  }
  return lines;
}

function waitPanel({ screen: { view, nowMs }, theme, width }: Paint): string[] {
  const { colors, glyphs } = theme;
  const { wait } = view;
  const rest = wait?.untilMs === undefined ? '' : `, in ${elapsed(wait.untilMs - nowMs)}`;
  const title = colors.cyan(colors.bold(`${glyphs.waiting} waits${rest}`));
  const why = wait === undefined ? [] : labelled('for', oneLine(wait.message), width);
  return [title, ...why, ...choiceLines(view.choices, view.id)];
}

/** `label   text`, wrapped below itself. */
export function labelled(label: string, text: string, width: number): string[] {
  const [first = '', ...rest] = wrap(text, width, ' '.repeat(11));
  return [`  ${label.padEnd(9)}${first.trimStart()}`, ...rest];
}

function holdPanel(hold: Hold, run: string, { screen, theme, width }: Paint): string[] {
  const { colors, glyphs } = theme;
  const where = hold.node === undefined ? '' : ` on ${oneLine(hold.node)}`;
  const since = `since ${clock(hold.sinceMs)}, ${elapsed(screen.nowMs - hold.sinceMs)}`;
  const title = colors.yellow(colors.bold(`${glyphs.held} held${where}: ${oneLine(hold.code)}`));
  const words = hold.words === undefined ? [] : labelled('it said', oneLine(hold.words), width);
  const itself = hold.selfClearing ? labelled('waits', 'goes on by itself once the cause is gone', width) : [];
  return [
    `${title}  ${colors.dim(since)}`,
    ...labelled('why', oneLine(hold.message), width),
    ...words,
    ...labelled('do', oneLine(hold.remedy), width),
    ...itself,
    ...choiceLines(hold.choices, run),
  ];
}

const CHOICES: Record<Exclude<Choice, 'wait'>, string> = {
  approve: 'agree to it',
  retry: 'look again, and go on if all is well',
  resume: 'go on',
  pause: 'stop before the next step',
  abort: 'end it; put back what still can be',
};

/** One line a legal choice, each with its command. */
export function choiceLines(choices: readonly Choice[], run: string): string[] {
  const commands = choices.filter((choice) => choice !== 'wait');
  return commands.map((choice, at) => {
    const command = `kwfleet run ${choice} ${run}`;
    return `  ${(at === 0 ? 'choices' : '').padEnd(9)}${command.padEnd(24 + run.length - 3)}${CHOICES[choice]}`;
  });
}

function approvalPanel({ screen: { view }, theme }: Paint): string[] {
  const { start, given = [] } = view.approval ?? {};
  const title = theme.colors.yellow(theme.colors.bold(`${theme.glyphs.held} waits for approval`));
  const people = given.filter(({ scope }) => scope === 'start').map(({ person }) => oneLine(person));
  const asked =
    start === undefined
      ? []
      : [
          `  needs    ${count(start.approvers, 'person', 'people')}, by the policy ${oneLine(start.policies.join(', '))}`,
        ];
  const so = people.length === 0 ? [] : [`  so far   ${people.join(', ')}`];
  return [title, ...asked, ...so, ...choiceLines(view.choices, view.id)];
}

function pausePanel({ screen: { view }, theme }: Paint): string[] {
  const title = theme.colors.yellow(theme.colors.bold(`${theme.glyphs.held} paused by an operator`));
  return [title, ...choiceLines(view.hold?.choices ?? ['resume', 'abort'], view.id)];
}

function ending({ screen, theme, width }: Paint): string[] {
  const { colors, glyphs } = theme;
  const { view } = screen;
  const report = `  report   kwfleet run report ${view.id}`;
  if (view.status === 'succeeded') return [colors.green(`${glyphs.done} ${successSentence(view)}`), report];
  const reason = screen.ending === undefined ? [] : labelled('why', oneLine(screen.ending), width);
  const { done, total } = progressOf(view);
  const title = colors.red(`${glyphs.failed} ${view.status}: ${done} of ${count(total, 'step')} were done`);
  return [title, ...reason, report];
}

function successSentence(view: RunView): string {
  const nodes = view.plan.nodes.length;
  const all = nodes === 1 ? 'its node' : `all ${nodes} nodes`;
  const spent =
    view.startedAtMs === undefined || view.endedAtMs === undefined
      ? ''
      : `, after ${elapsed(view.endedAtMs - view.startedAtMs)}`;
  return `${oneLine(view.clusterName || view.cluster)} serves ${oneLine(view.to)} on ${all}${spent}`;
}
