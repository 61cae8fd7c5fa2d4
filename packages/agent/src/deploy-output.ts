/**
 * What deploy.sh printed, read as a person would: cleaned of colours and of the progress bar that draws over itself, then
 * mapped to a stable code. Success is never concluded from here alone; a failure's words are kept for the operator.
 * Source: KWDB facts, "What it prints and how it ends".
 */
import type { ErrorCode } from '@kwfleet/core';

const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
const CONTROLS = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;
const WORDS_LIMIT = 4000;
/** A line longer than this is cut: nobody reads it, and a stream without newlines must not fill the memory. */
const LINE_LIMIT = 16 * 1024;

/** One line as the terminal would show it: after a carriage return, text is written over what stands there. */
function cleanLine(raw: string): string {
  const segments = raw.replace(ESCAPES, '').replace(/\t/g, '  ').split('\r');
  let shown = '';
  for (const segment of segments) {
    const text = segment.replace(CONTROLS, '');
    shown = text + shown.slice(text.length);
  }
  return shown.trim() === '' ? '' : shown.trimEnd();
}

/** All of it, without empty lines. */
export function cleanOutput(raw: string): string {
  return raw
    .split('\n')
    .map((line) => cleanLine(line.slice(0, LINE_LIMIT)))
    .filter((line) => line !== '')
    .join('\n');
}

/** Cleans output as it arrives. What it gives out depends on the bytes alone, so a second reader counts the same offsets. */
export class OutputCleaner {
  readonly #decoder = new TextDecoder();
  #rest = '';
  #offset = 0;

  /**
   * Takes raw bytes; gives the cleaned lines that are whole by now, each with the cleaned byte where it starts. Line by
   * line, so that whoever reads the output a second time in other pieces gives out the same ones.
   */
  take(bytes: Uint8Array, last = false): { readonly offset: number; readonly text: string }[] {
    const lines = (this.#rest + this.#decoder.decode(bytes, { stream: !last })).split('\n');
    this.#rest = last ? '' : (lines.pop() ?? '');
    return lines
      .map((line) => cleanLine(line.slice(0, LINE_LIMIT)))
      .filter((line) => line !== '')
      .map((line) => {
        const piece = { offset: this.#offset, text: `${line}\n` };
        this.#offset += Buffer.byteLength(piece.text);
        return piece;
      });
  }
}

/** In the order in which they are looked for: the real cause before the message that wraps it. */
const CAUSES: readonly (readonly [RegExp, ErrorCode])[] = [
  [/No space left on device/i, 'DISK_FULL'],
  [/KaiwuDB does not exist/i, 'DEPLOY_NOT_INSTALLED'],
  [/Package \S+ does not exist|packages: No such directory/i, 'DEPLOY_PACKAGE_INCOMPLETE'],
  [/Current use \S*, but the package is/i, 'DEPLOY_WRONG_METHOD'],
  [/older than the current installed version/i, 'DEPLOY_VERSION_OLDER'],
  [/Official version can not upgrade to|The upgrade conditions are not met/i, 'DEPLOY_VERSION_REFUSED'],
  [/This version upgrade is not supported/i, 'DEPLOY_VERSION_UNSUPPORTED'],
  [/is not support online upgrade/i, 'DEPLOY_STILL_RUNNING'],
  [/change status failed|Get node id failed/i, 'DEPLOY_MARK_FAILED'],
  [/Incorrect password|Can not use command/i, 'DEPLOY_PASSWORD'],
  [/command not found: sudo|sudo: (?:command )?not found/i, 'SUDO_MISSING'],
  [/Recover KaiwuDB failed|Restart KaiwuDB failed/i, 'START_FAILED'],
];

export type OutputVerdict =
  | { readonly status: 'completed' }
  /** It ended well and said neither; only an observation can tell. */
  | { readonly status: 'unclear' }
  | { readonly status: 'failed'; readonly code: ErrorCode; readonly message: string; readonly words: string };

/** Judges the whole output: the last line is not reliable. */
export function judgeOutput(raw: string, exitCode: number): OutputVerdict {
  const text = cleanOutput(raw);
  const errorAt = text.search(/\[ERROR\]/);
  if (exitCode === 0 && errorAt < 0) {
    return /UPGRADE COMPLETED/.test(text) ? { status: 'completed' } : { status: 'unclear' };
  }
  const said = withoutWrapping(errorAt < 0 ? text : text.slice(errorAt)).slice(0, WORDS_LIMIT);
  const code = CAUSES.find(([pattern]) => pattern.test(said))?.[1] ?? 'INSTALL_FAILED';
  const first = tellingLine(said);
  const message = first === '' ? `deploy.sh ended with exit status ${exitCode}` : `deploy.sh: ${first.slice(0, 300)}`;
  return { status: 'failed', code, message, words: said };
}

/** The line a person looks for: dpkg and rpm talk a good deal before they come to the point. */
function tellingLine(said: string): string {
  const lines = said.split('\n').map((line) => line.trim());
  return lines.find((line) => /^(?:dpkg|rpm|error|tar)\b.*(?:error|fail|cannot)/i.test(line)) ?? lines[0] ?? '';
}

/** Without the date, and without the prefix that speaks of a pipe where an installation failed. */
function withoutWrapping(text: string): string {
  return text
    .replace(/^\s*\[ERROR\]\s*(?:\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\s*)?/, '')
    .replace(/^Pipe create failed:\s*(?=\S)/, '')
    .trim();
}
