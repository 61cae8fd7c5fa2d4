/**
 * What each receiver is sent. The webhook's body is ours and its signature that of the Standard Webhooks specification;
 * the chat tools take a text in their own wrapping. Sources: the tools' documentation of incoming webhooks and robots.
 */
import { createHmac } from 'node:crypto';
import type { Notification } from '@kwfleet/core';
import type { HttpTarget } from './targets.ts';

/** What is sent, and by which id a receiver knows that it has it already. */
export type Message = { readonly id: string; readonly atMs: number; readonly content: Notification };

export type HttpRequest = {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
};

/** A few lines of plain text. */
export const textOf = ({ content }: Message): string => [content.title, ...content.lines].join('\n');

/** The request that delivers a message. `nowMs` is told to receivers that refuse what is old. */
export function requestFor(
  kind: HttpTarget['kind'],
  url: string,
  secret: string | undefined,
  message: Message,
  nowMs: number,
): HttpRequest {
  const json = (body: object) => JSON.stringify(body);
  const plain = { 'content-type': 'application/json; charset=utf-8', 'user-agent': 'kwfleet' };
  const text = textOf(message);
  switch (kind) {
    case 'webhook':
      return signed(url, secret ?? '', message, nowMs, plain);
    case 'slack':
      return { url, headers: plain, body: json({ text: slackText(text) }) };
    case 'teams':
      return { url, headers: plain, body: json(adaptiveCard(message)) };
    case 'dingtalk':
      return {
        url: secret === undefined ? url : dingtalkUrl(url, secret, nowMs),
        headers: plain,
        body: json({ msgtype: 'text', text: { content: text } }),
      };
    case 'feishu':
      return {
        url,
        headers: plain,
        body: json({ ...(secret && feishuSignature(secret, nowMs)), msg_type: 'text', content: { text } }),
      };
    case 'wecom':
      return { url, headers: plain, body: json({ msgtype: 'text', text: { content: text } }) };
    default:
      return kind satisfies never;
  }
}

/** A receiver checks id, time and body at once, refuses old times, and remembers ids. */
function signed(
  url: string,
  secret: string,
  { id, atMs, content }: Message,
  nowMs: number,
  plain: Record<string, string>,
): HttpRequest {
  const { heldSinceMs: _, ...told } = content;
  const body = JSON.stringify({ type: content.event, timestamp: new Date(atMs).toISOString(), data: { id, ...told } });
  const seconds = Math.floor(nowMs / 1000);
  const signature = `v1,${webhookSignature(secret, id, seconds, body)}`;
  const headers = { 'webhook-id': id, 'webhook-timestamp': String(seconds), 'webhook-signature': signature };
  return { url, headers: { ...plain, ...headers }, body };
}

/** HMAC-SHA256 over `ID.SECONDS.BODY`, base64. A secret that begins with `whsec_` is base64 after that. */
export function webhookSignature(secret: string, id: string, seconds: number, body: string): string {
  const key = secret.startsWith('whsec_') ? Buffer.from(secret.slice(6), 'base64') : Buffer.from(secret, 'utf8');
  return createHmac('sha256', key).update(`${id}.${seconds}.${body}`).digest('base64');
}

const slackText = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/** The card that a Teams workflow with "when a webhook request is received" takes. */
function adaptiveCard({ content }: Message): object {
  const block = (text: string, more: object = {}) => ({
    type: 'TextBlock',
    text: teamsText(text),
    wrap: true,
    ...more,
  });
  const colour = { info: 'Good', warning: 'Warning', critical: 'Attention' }[content.severity];
  const body = [
    block(content.title, { weight: 'Bolder', size: 'Medium', color: colour }),
    ...content.lines.map((line) => block(line)),
  ];
  const card = {
    $schema: 'http://adaptivecards.io/schemas/adaptive-card.json',
    type: 'AdaptiveCard',
    version: '1.4',
    body,
  };
  return { type: 'message', attachments: [{ contentType: 'application/vnd.microsoft.card.adaptive', content: card }] };
}

/** A card reads Markdown: words of a host are words, not markup. */
const teamsText = (text: string): string => text.replaceAll(/[\\`*_[\]#]/g, '\\$&');

function dingtalkUrl(url: string, secret: string, nowMs: number): string {
  const sign = createHmac('sha256', secret).update(`${nowMs}\n${secret}`).digest('base64');
  const signedUrl = new URL(url);
  signedUrl.searchParams.set('timestamp', String(nowMs));
  signedUrl.searchParams.set('sign', sign);
  return signedUrl.href;
}

function feishuSignature(secret: string, nowMs: number): { timestamp: string; sign: string } {
  const timestamp = String(Math.floor(nowMs / 1000));
  return { timestamp, sign: createHmac('sha256', `${timestamp}\n${secret}`).digest('base64') };
}

/** Why the receiver did not take it although it answered 200, or undefined. DingTalk, Feishu and WeCom say so in the body. */
export function refusedInBody(kind: HttpTarget['kind'], body: string): string | undefined {
  if (kind !== 'dingtalk' && kind !== 'feishu' && kind !== 'wecom') return undefined;
  try {
    const answer = JSON.parse(body) as { errcode?: number; errmsg?: string; code?: number; msg?: string };
    const code = answer.errcode ?? answer.code ?? 0;
    return code === 0 ? undefined : `it answered ${code}: ${answer.errmsg ?? answer.msg ?? 'no reason'}`;
  } catch {
    return 'its answer is not the one of such a robot';
  }
}
