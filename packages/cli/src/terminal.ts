/** Where a command writes: the terminal or file it was given, and what that can show. */
import { type Theme, takesColor, takesUnicode, theme } from './render/theme.ts';

/** The part of a stream that is needed; tests give their own. */
export type Output = {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
};

export type Terminal = {
  readonly out: Output;
  readonly theme: Theme;
  readonly isTTY: boolean;
  /** Columns, or undefined where nothing must be cut: a file or a pipe. */
  readonly width: () => number | undefined;
  readonly line: (text?: string) => void;
  readonly lines: (lines: readonly string[]) => void;
  /** An object of the API for programs: indented, or on one line where many follow each other. */
  readonly json: (value: unknown) => void;
  readonly jsonLine: (value: unknown) => void;
};

/** A terminal over a stream. */
export function terminal(out: Output, env: NodeJS.ProcessEnv): Terminal {
  const isTTY = out.isTTY === true;
  const line = (text = '') => void out.write(`${text}\n`);
  return {
    out,
    isTTY,
    theme: theme({ unicode: takesUnicode(env), color: takesColor(env, isTTY) }),
    width: () => (isTTY ? (out.columns ?? 80) : undefined),
    line,
    lines: (lines) => {
      for (const text of lines) line(text);
    },
    json: (value) => line(JSON.stringify(value, null, 2)),
    jsonLine: (value) => line(JSON.stringify(value)),
  };
}
