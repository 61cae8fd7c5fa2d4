/** What the command of a container says of the node it runs. */
import { posix } from 'node:path';
import { type StartCommand, startCommand } from '../host/start-command.ts';
import type { ContainerInspect } from './engine.ts';

export type ContainerCommand = StartCommand & {
  /** `kwbase` as the container calls it: a path, or a name found on its PATH. */
  readonly kwbase: string;
  /** The whole command as one text. */
  readonly text: string;
};

const SHELLS: ReadonlySet<string> = new Set(['sh', 'bash', 'dash', 'ash']);

/** The start of a node in a container's command; undefined when it runs something else. */
export function containerCommand(inspect: Pick<ContainerInspect, 'Path' | 'Args'>): ContainerCommand | undefined {
  const argv = [inspect.Path, ...(inspect.Args ?? [])];
  const words = argv.flatMap((word, at) => (isScript(argv, at) ? shellWords(word) : [word]));
  const at = words.findIndex((word) => posix.basename(word) === 'kwbase');
  const kwbase = words[at];
  const start = kwbase === undefined ? undefined : startCommand(words.slice(at + 1));
  return kwbase === undefined || start === undefined ? undefined : { ...start, kwbase, text: argv.join(' ') };
}

/** `bash -c TEXT`, as the vendor's own compose file starts the node. */
function isScript(argv: readonly string[], at: number): boolean {
  return at > 1 && /^-\w*c$/.test(argv[at - 1] ?? '') && SHELLS.has(posix.basename(argv[at - 2] ?? ''));
}

/** Words of a shell line as far as a start command needs them: quotes are taken off, the next command ends it. */
function shellWords(text: string): string[] {
  const [line = ''] = text
    .replace(/\\\n/g, ' ')
    .split('\n')
    .flatMap((part) => part.split(/;|&&|\|\|/))
    .filter((part) => /(^|[\s/"'])kwbase["'\s]/.test(part));
  return [...line.matchAll(/(?:[^\s"']+|"[^"]*"|'[^']*')+/g)].map(([word]) => word.replace(/["']/g, ''));
}

/** Where a path of the container lies on the host: in a bind, or in a volume; undefined when in the container itself. */
export function onHost(inspect: Pick<ContainerInspect, 'Mounts'>, path: string): string | undefined {
  const mounts = (inspect.Mounts ?? [])
    .filter(({ Destination }) => path === Destination || path.startsWith(`${Destination.replace(/\/$/, '')}/`))
    .sort((a, b) => b.Destination.length - a.Destination.length);
  const mount = mounts[0];
  if (mount === undefined || mount.Source === '' || mount.Source === undefined) return undefined;
  return posix.join(mount.Source, path.slice(mount.Destination.length));
}
