/**
 * What on this host may start or change the database's service by itself: cron jobs and timers that mention it, and
 * configuration management, whose rules lie elsewhere. Read from files; nothing is asked or run.
 */
import { constants } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';

export type Restarters = {
  readonly found: readonly { readonly where: string; readonly what: string }[];
  /** Places that are there and may not be read. */
  readonly unread: readonly string[];
};

const CRON_FILES = ['/etc/crontab', '/etc/anacrontab'];
const CRON_FOLDERS = [
  '/etc/cron.d',
  '/etc/cron.hourly',
  '/etc/cron.daily',
  '/etc/cron.weekly',
  '/etc/cron.monthly',
  '/var/spool/cron/crontabs',
  '/var/spool/cron',
];
const UNIT_FOLDERS = ['/etc/systemd/system', '/run/systemd/system', '/usr/lib/systemd/system', '/lib/systemd/system'];
/** Units that are enabled are linked from here. */
const ENABLED_FOLDERS = ['timers.target.wants', 'multi-user.target.wants', 'default.target.wants'];

const MENTIONS = /kaiwudb|kwbase/i;
const MANAGERS = /\b(ansible-pull|puppet|chef-client|cinc-client|salt-minion|salt-call|cf-execd|cf-agent)\b/;

const FILES_MAX = 500;
const FILE_MAX_BYTES = 64 * 1024;
const FOUND_MAX = 20;
const TEXT_MAX = 160;

export async function findRestarters(root: string): Promise<Restarters> {
  const look = new Look(root);
  for (const file of CRON_FILES) await look.cron(file);
  for (const folder of CRON_FOLDERS) for (const name of await look.names(folder)) await look.cron(`${folder}/${name}`);
  for (const wants of ENABLED_FOLDERS) {
    for (const unit of await look.names(`/etc/systemd/system/${wants}`)) await look.unit(unit);
  }
  return { found: look.found.slice(0, FOUND_MAX), unread: look.unread };
}

class Look {
  readonly found: { where: string; what: string }[] = [];
  readonly unread: string[] = [];
  readonly #root: string;
  #files = 0;

  constructor(root: string) {
    this.#root = root;
  }

  async names(folder: string): Promise<string[]> {
    try {
      return (await readdir(join(this.#root, folder))).sort();
    } catch (error) {
      this.#note(folder, error);
      return [];
    }
  }

  async cron(path: string): Promise<void> {
    const line = lines((await this.#text(path)) ?? '').find((text) => MENTIONS.test(text) || MANAGERS.test(text));
    if (line !== undefined) this.#add(path, line);
  }

  async unit(name: string): Promise<void> {
    if (MANAGERS.test(name)) {
      this.#add(name, 'it is enabled, and its rules may start or change the database');
      return;
    }
    if (!name.endsWith('.timer')) return;
    const timer = (await this.#unitText(name)) ?? '';
    const service = /^\s*Unit\s*=\s*(\S+)/m.exec(timer)?.[1] ?? name.replace(/\.timer$/, '.service');
    const text = `${timer}\n${(await this.#unitText(basename(service))) ?? ''}`;
    const line = lines(text).find((one) => MENTIONS.test(one) || MANAGERS.test(one));
    if (line !== undefined) this.#add(name, line);
  }

  async #unitText(name: string): Promise<string | undefined> {
    for (const folder of UNIT_FOLDERS) {
      const text = await this.#text(`${folder}/${name}`);
      if (text !== undefined) return text;
    }
    return undefined;
  }

  /** Of a plain file of a sane size; nothing else of that name can be a cron table or a unit. */
  async #text(path: string): Promise<string | undefined> {
    if (this.#files >= FILES_MAX) return undefined;
    try {
      // Not blocked by a FIFO that somebody left there.
      const file = await open(join(this.#root, path), constants.O_RDONLY | constants.O_NONBLOCK);
      try {
        const { size } = await file.stat().then((found) => (found.isFile() ? found : { size: -1 }));
        if (size < 0 || size > FILE_MAX_BYTES) return undefined;
        this.#files += 1;
        return await file.readFile('utf8');
      } finally {
        await file.close();
      }
    } catch (error) {
      this.#note(path, error);
      return undefined;
    }
  }

  #note(path: string, error: unknown): void {
    const { code } = error as NodeJS.ErrnoException;
    if ((code === 'EACCES' || code === 'EPERM') && this.unread.length < FOUND_MAX) this.unread.push(path);
  }

  #add(where: string, what: string): void {
    this.found.push({ where, what: what.trim().slice(0, TEXT_MAX) });
  }
}

/** Without comments. */
const lines = (text: string): string[] =>
  text.split('\n').filter((line) => line.trim() !== '' && !/^\s*[#;]/.test(line));
