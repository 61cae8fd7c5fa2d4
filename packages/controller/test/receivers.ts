/** Receivers of notifications: an HTTP server that keeps what it gets, and as much of an SMTP server as a mail needs. */
import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingHttpHeaders } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';

export type Received = { readonly path: string; readonly headers: IncomingHttpHeaders; readonly body: string };
export type Answer = { status: number; body?: string; headers?: Record<string, string>; hang?: true };

export async function httpReceiver(answer: (at: number, received: Received) => Answer = () => ({ status: 200 })) {
  const received: Received[] = [];
  const server = createHttpServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (chunk: string) => {
      body += chunk;
    });
    request.on('end', () => {
      const one = { path: request.url ?? '', headers: request.headers, body };
      received.push(one);
      const { status, body: text = '', headers = {}, hang } = answer(received.length, one);
      if (!hang) response.writeHead(status, headers).end(text);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received,
    async close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

export type Mail = { from: string; to: string[]; data: string; credentials: string | undefined };

/** `refuse`: what it answers to a recipient. */
export async function smtpReceiver({ refuse }: { refuse?: string } = {}) {
  const mails: Mail[] = [];
  /** Every command that came, so that a test can see what was not sent. */
  const commands: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    let mail: Mail = { from: '', to: [], data: '', credentials: undefined };
    let rest = '';
    let inData = false;
    const say = (line: string) => socket.write(`${line}\r\n`);
    say('220 sink');
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      rest += chunk;
      for (;;) {
        const end = rest.indexOf(inData ? '\r\n.\r\n' : '\r\n');
        if (end < 0) return;
        const text = rest.slice(0, end);
        rest = rest.slice(end + (inData ? 5 : 2));
        if (inData) {
          inData = false;
          mails.push({ ...mail, data: text });
          mail = { from: '', to: [], data: '', credentials: undefined };
          say('250 kept');
          continue;
        }
        commands.push(text);
        const verb = text.slice(0, 4).toUpperCase();
        if (verb === 'EHLO') say('250-sink\r\n250 8BITMIME');
        else if (verb === 'MAIL') {
          mail.from = /<(.*)>/.exec(text)?.[1] ?? '';
          say('250 ok');
        } else if (verb === 'RCPT') {
          if (refuse === undefined) mail.to.push(/<(.*)>/.exec(text)?.[1] ?? '');
          say(refuse ?? '250 ok');
        } else if (verb === 'DATA') {
          inData = true;
          say('354 go on');
        } else if (verb === 'QUIT') socket.end('221 bye\r\n');
        else say('250 ok');
      }
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    mails,
    commands,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
