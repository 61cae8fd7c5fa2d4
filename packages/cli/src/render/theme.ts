/** What the terminal can show: signs and colours. Everything that draws takes one of these, so that tests choose theirs. */
import pc from 'picocolors';

export type Colors = ReturnType<typeof pc.createColors>;

const UNICODE = {
  done: '✔',
  running: '◐',
  waiting: '·',
  failed: '✘',
  held: '■',
  returned: '↺',
  warn: '▲',
  unknown: '?',
  arrow: '→',
  ellipsis: '…',
  branch: '├─',
  last: '└─',
  bar: '│',
  separator: '·',
};

const ASCII: typeof UNICODE = {
  done: '+',
  running: '*',
  waiting: '.',
  failed: 'x',
  held: '#',
  returned: '<',
  warn: '!',
  unknown: '?',
  arrow: '->',
  ellipsis: '..',
  branch: '|-',
  last: '`-',
  bar: '|',
  separator: '-',
};

const SPINNER = ['◐', '◓', '◑', '◒'] as const;
const ASCII_SPINNER = ['|', '/', '-', '\\'] as const;

export type Theme = {
  readonly colors: Colors;
  readonly glyphs: typeof UNICODE;
  readonly spinner: readonly string[];
};

/** A theme for what the terminal can show. */
export function theme(can: { readonly unicode: boolean; readonly color: boolean }): Theme {
  return {
    colors: pc.createColors(can.color),
    glyphs: can.unicode ? UNICODE : ASCII,
    spinner: can.unicode ? SPINNER : ASCII_SPINNER,
  };
}

/** Whether the locale says that the terminal takes UTF-8. The Linux console does, and lacks the signs. */
export function takesUnicode(env: NodeJS.ProcessEnv): boolean {
  if (env.TERM === 'linux' || env.TERM === 'dumb') return false;
  return /utf-?8/i.test(env.LC_ALL || env.LC_CTYPE || env.LANG || '');
}

/** Colours go to a terminal, unless NO_COLOR is set; FORCE_COLOR asks for them elsewhere. */
export function takesColor(env: NodeJS.ProcessEnv, isTTY: boolean): boolean {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== '') return false;
  if (env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '' && env.FORCE_COLOR !== '0') return true;
  return isTTY && env.TERM !== 'dumb';
}
