import { createServer } from 'node:net';
import { expect, it } from 'vitest';
import { openDatabase } from '../src/store/database.ts';
import { log } from './support.ts';

/** A message of PostgreSQL's protocol: a letter, the length, the body. */
function message(type: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.write(type);
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

const AUTHENTICATED = message('R', Buffer.from([0, 0, 0, 0]));
const READY = message('Z', Buffer.from('I'));
const FATAL = message('E', Buffer.from('SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0'));

it('outlives a PostgreSQL that dies right after it let a connection in, and says UNAVAILABLE', async () => {
  // Both in one write: the error comes before anybody has the new connection in hand.
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.end(Buffer.concat([AUTHENTICATED, READY, FATAL])));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const database = openDatabase({ host: '127.0.0.1', port: address.port, user: 'u', database: 'd' }, log);
  try {
    await expect(database.transaction((sql) => sql.query('SELECT 1'))).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  } finally {
    await database.close();
    server.close();
  }
});
