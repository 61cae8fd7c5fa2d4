/** Files that people write: read here, and refused with the places of their mistakes before anybody is asked anything. */
import { readFile, stat } from 'node:fs/promises';
import { FILE_MAX_BYTES, mistakeLine, type Written } from '@kwfleet/core';
import { badInput, CliError, EXIT } from './exit.ts';

/** The text of a YAML or JSON file, and what `read` finds in it. `-` reads standard input. */
export async function readWrittenFile<T>(
  file: string,
  read: (text: string) => Written<T>,
): Promise<{ text: string; value: T }> {
  const text = await readText(file);
  const written = read(text);
  if ('value' in written) return { text, value: written.value };
  const name = file === '-' ? 'standard input' : file;
  const lines = written.mistakes.map((mistake) => mistakeLine(name, mistake)).join('\n');
  throw new CliError(EXIT.refused, `${name} is not as it must be:`, { words: lines, code: 'FILE_INVALID' });
}

async function readText(file: string): Promise<string> {
  try {
    if (file === '-') return await readAll(process.stdin);
    if ((await stat(file)).size > FILE_MAX_BYTES) throw new Error(`it is larger than ${FILE_MAX_BYTES} bytes`);
    return await readFile(file, 'utf8');
  } catch (error) {
    throw badInput(`${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

async function readAll(stream: NodeJS.ReadableStream): Promise<string> {
  let text = '';
  for await (const chunk of stream) {
    text += String(chunk);
    if (text.length > FILE_MAX_BYTES) throw new Error(`it is longer than ${FILE_MAX_BYTES} bytes`);
  }
  return text;
}
