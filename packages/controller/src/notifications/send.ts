/** One attempt to deliver one message. Everything about it is bounded: time, size of what comes back, redirects (none). */
import { createTransport } from 'nodemailer';
import { type Message, refusedInBody, requestFor, textOf } from './bodies.ts';
import { type EmailTarget, type HttpTarget, readSecret, type Target, urlOf } from './targets.ts';

export type Sent =
  | { readonly ok: true }
  /** `final`: trying again changes nothing. */
  | { readonly ok: false; readonly reason: string; readonly final: boolean; readonly retryAfterMs?: number };

export const SEND_MS = 10_000;
const ANSWER_MAX_BYTES = 16 * 1024;
const RETRY_AFTER_MAX_MS = 3_600_000;

/** Never throws; never tells an address or a secret in its reason. */
export async function send(target: Target, message: Message, nowMs: number = Date.now()): Promise<Sent> {
  try {
    return await (target.kind === 'email' ? sendMail(target, message) : sendHttp(target, message, nowMs));
  } catch (error) {
    return { ok: false, reason: reasonOf(error), final: false };
  }
}

async function sendHttp(target: HttpTarget, message: Message, nowMs: number): Promise<Sent> {
  const secret = target.secret_file === undefined ? undefined : readSecret(target.secret_file);
  const { url, headers, body } = requestFor(target.kind, urlOf(target), secret, message, nowMs);
  const signal = AbortSignal.timeout(SEND_MS);
  const answer = await fetch(url, { method: 'POST', headers, body, signal, redirect: 'manual' });
  const text = await beginningOf(answer);
  if (answer.ok) {
    const reason = refusedInBody(target.kind, text);
    return reason === undefined ? { ok: true } : { ok: false, reason, final: false };
  }
  const { status } = answer;
  // What is wrong with the request stays wrong; what is wrong with the receiver may pass.
  const final = status >= 300 && status < 500 && ![408, 425, 429].includes(status);
  const waitMs = Number(answer.headers.get('retry-after')) * 1000;
  const retryAfter = waitMs > 0 ? { retryAfterMs: Math.min(waitMs, RETRY_AFTER_MAX_MS) } : {};
  return {
    ok: false,
    reason: `it answered ${status}${text === '' ? '' : `: ${text.slice(0, 200)}`}`,
    final,
    ...retryAfter,
  };
}

async function beginningOf(answer: Response): Promise<string> {
  let bytes = Buffer.alloc(0);
  if (answer.body === null) return '';
  for await (const chunk of answer.body) {
    bytes = Buffer.concat([bytes, chunk as Uint8Array]);
    if (bytes.length >= ANSWER_MAX_BYTES) break;
  }
  return bytes.subarray(0, ANSWER_MAX_BYTES).toString('utf8');
}

async function sendMail(target: EmailTarget, message: Message): Promise<Sent> {
  const { host, tls = 'starttls', user, password_file: passwordFile, from, to } = target;
  const transport = createTransport({
    host,
    port: target.port ?? { starttls: 587, tls: 465, none: 25 }[tls],
    secure: tls === 'tls',
    requireTLS: tls === 'starttls',
    ignoreTLS: tls === 'none',
    ...(user !== undefined && passwordFile !== undefined && { auth: { user, pass: readSecret(passwordFile) } }),
    connectionTimeout: SEND_MS,
    greetingTimeout: SEND_MS,
    socketTimeout: SEND_MS,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  try {
    const { rejected } = await transport.sendMail({
      from,
      to: [...to],
      subject: `[kwfleet] ${message.content.title}`,
      text: `${textOf(message)}\n`,
      date: new Date(message.atMs),
      // A mail that comes twice is one mail to those that read its id.
      messageId: `<${message.id}@kwfleet>`,
      headers: { 'Auto-Submitted': 'auto-generated', 'X-Kwfleet-Event': message.content.event },
    });
    if (rejected.length === 0) return { ok: true };
    return { ok: false, reason: `the server did not take ${rejected.join(', ')}`, final: true };
  } catch (error) {
    const { responseCode } = error as { responseCode?: number };
    // 5xx of SMTP: permanent. Without a code the server was not reached, or said nothing.
    return { ok: false, reason: reasonOf(error), final: responseCode !== undefined && responseCode >= 500 };
  } finally {
    transport.close();
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === 'TimeoutError') return `no answer within ${SEND_MS / 1000} s`;
  const cause = error.cause instanceof Error ? error.cause : error;
  const code = 'code' in cause ? String(cause.code) : '';
  // Of a failed fetch the cause says why; its message may carry an address, the code does not.
  return error.cause instanceof Error ? code || 'the connection failed' : cause.message;
}
