/** `notifications:` of the configuration: whom to tell what. Addresses come from here and from nowhere else. */
import { readFileSync } from 'node:fs';
import { FleetError, NotificationEvent } from '@kwfleet/core';
import Type, { type Static } from 'typebox';
import { isLoopback } from '../network.ts';

const strict = { additionalProperties: false } as const;
const Path = Type.String({ minLength: 1 });
const Address = Type.String({ minLength: 3, maxLength: 254, pattern: '^[^\\s<>,;"]+@[^\\s<>,;"]+$' });

const common = {
  name: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$' }),
  /** None: all of them. */
  events: Type.Optional(Type.Array(NotificationEvent, { minItems: 1 })),
  /** Only about clusters that have all of these. None: about everything. */
  labels: Type.Optional(Type.Record(Type.String(), Type.String())),
};

const HttpTarget = Type.Object(
  {
    ...common,
    kind: Type.Union([
      Type.Literal('webhook'),
      Type.Literal('slack'),
      Type.Literal('teams'),
      Type.Literal('dingtalk'),
      Type.Literal('feishu'),
      Type.Literal('wecom'),
    ]),
    /** Addresses of chat tools are secrets themselves: rather in a file. */
    url: Type.Optional(Type.String({ minLength: 1, maxLength: 2000 })),
    url_file: Type.Optional(Path),
    /** Signs the body: of a webhook, and of a DingTalk or Feishu robot that wants signatures. */
    secret_file: Type.Optional(Path),
    /** Says on purpose that it goes over the network unencrypted. */
    plaintext: Type.Optional(Type.Boolean()),
  },
  strict,
);

const EmailTarget = Type.Object(
  {
    ...common,
    kind: Type.Literal('email'),
    host: Type.String({ minLength: 1, maxLength: 253 }),
    port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535 })),
    /** `starttls` by default; `none` only where the way is safe by other means, and never with a password. */
    tls: Type.Optional(Type.Union([Type.Literal('starttls'), Type.Literal('tls'), Type.Literal('none')])),
    user: Type.Optional(Type.String({ minLength: 1 })),
    password_file: Type.Optional(Path),
    from: Address,
    to: Type.Array(Address, { minItems: 1, maxItems: 50 }),
  },
  strict,
);

export const NotificationSettings = Type.Partial(
  Type.Object({ targets: Type.Array(Type.Union([HttpTarget, EmailTarget]), { maxItems: 50 }) }),
  strict,
);
export type NotificationSettings = Static<typeof NotificationSettings>;

export type HttpTarget = Static<typeof HttpTarget>;
export type EmailTarget = Static<typeof EmailTarget>;
export type Target = HttpTarget | EmailTarget;

/** Refuses what could not work, before anything starts. Throws CONFIG_INVALID. */
export function checkTargets(targets: readonly Target[]): readonly Target[] {
  const names = new Set<string>();
  for (const target of targets) {
    const wrong = names.has(target.name) ? 'there are two of this name' : wrongWith(target);
    names.add(target.name);
    if (wrong !== undefined) throw new FleetError('CONFIG_INVALID', `notifications.targets ${target.name}: ${wrong}`);
  }
  return targets;
}

function wrongWith(target: Target): string | undefined {
  if (target.kind === 'email') {
    if ((target.user === undefined) !== (target.password_file === undefined))
      return 'user and password_file go together';
    if (target.tls === 'none' && target.user !== undefined) return 'a password needs tls';
    return target.password_file === undefined ? undefined : unreadable(target.password_file);
  }
  if ((target.url === undefined) === (target.url_file === undefined)) return 'give either url or url_file';
  const missing = [target.url_file, target.secret_file].flatMap((file) => (file && unreadable(file)) ?? [])[0];
  if (missing !== undefined) return missing;
  if (target.kind === 'webhook' && target.secret_file === undefined)
    return 'a webhook needs a secret_file to sign with';
  return wrongUrl(urlOf(target), target.plaintext === true);
}

function wrongUrl(text: string, plaintext: boolean): string | undefined {
  const url = URL.parse(text);
  if (url === null) return 'its url is none';
  if (url.username !== '' || url.password !== '') return 'its url must not carry a password';
  if (url.protocol === 'https:') return undefined;
  if (url.protocol !== 'http:') return 'its url is neither https nor http';
  if (isLoopback(url.hostname.replace(/^\[(.*)\]$/, '$1')) || plaintext) return undefined;
  return 'its url would be called unencrypted: use https, or say plaintext: true where something else encrypts';
}

function unreadable(file: string): string | undefined {
  try {
    return readSecret(file) === '' ? `${file} is empty` : undefined;
  } catch (error) {
    return `${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Read anew each time: a secret that was changed needs no restart. */
export const readSecret = (file: string): string => readFileSync(file, 'utf8').trim();

export const urlOf = (target: HttpTarget): string =>
  target.url_file === undefined ? (target.url ?? '') : readSecret(target.url_file);

/** Where it goes, without what is secret of it. */
export const hostOf = (target: Target): string =>
  target.kind === 'email' ? target.host : (URL.parse(urlOf(target))?.host ?? '');

/** Whether the target wants to be told of this, about clusters with these labels. */
export function wants(target: Target, event: NotificationEvent, labels: readonly Record<string, string>[]): boolean {
  if (target.events !== undefined && !target.events.includes(event)) return false;
  const wanted = Object.entries(target.labels ?? {});
  return wanted.length === 0 || labels.some((of) => wanted.every(([key, value]) => of[key] === value));
}
