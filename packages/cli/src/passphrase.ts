/** Passphrases come from the terminal or from a file or descriptor, never from arguments, which everybody can read. */
import { open } from 'node:fs/promises';
import { badInput } from './exit.ts';

const FILE_MAX_BYTES = 4096;
/** Whoever steals the file may guess for months. */
const LEAST_CHARACTERS = 12;

/** The passphrase of `what`: the first line of `file`, or what is typed. */
export async function readPassphrase(what: string, file: string | undefined): Promise<string> {
  if (file !== undefined) return firstLine(file);
  return typed(`Passphrase of ${what}`);
}

/** A new passphrase, typed twice; refuses a short one. */
export async function newPassphrase(what: string, file: string | undefined): Promise<string> {
  const first = file === undefined ? await typed(`New passphrase for ${what}`) : await firstLine(file);
  if (first.length < LEAST_CHARACTERS) {
    throw badInput(`The passphrase has fewer than ${LEAST_CHARACTERS} characters.`, 'Take a longer one.');
  }
  if (file === undefined && (await typed('The same again')) !== first) throw badInput('The two are not the same.');
  return first;
}

async function firstLine(file: string): Promise<string> {
  try {
    const handle = await open(file, 'r');
    try {
      const buffer = Buffer.alloc(FILE_MAX_BYTES);
      let length = 0;
      // A pipe gives what it has: until its end, a line's end, or enough.
      for (;;) {
        const { bytesRead } = await handle.read(buffer, length, FILE_MAX_BYTES - length, null);
        length += bytesRead;
        if (bytesRead === 0 || length === FILE_MAX_BYTES || buffer.subarray(0, length).includes(10)) break;
      }
      return buffer.subarray(0, length).toString('utf8').split(/\r?\n/)[0] ?? '';
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw badInput(`The passphrase cannot be read from ${file}: ${(error as Error).message}`);
  }
}

async function typed(message: string): Promise<string> {
  if (!process.stdin.isTTY) {
    throw badInput('There is no terminal to type a passphrase on.', 'Give --passphrase-file FILE, or /dev/fd/N.');
  }
  // Loaded only here, as for other questions.
  const { password } = await import('@clack/prompts');
  const answer = await password({ message });
  if (typeof answer !== 'string') throw badInput('No passphrase was given.');
  return answer;
}
