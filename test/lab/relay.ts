// Runs inside a lab's network: takes connections of a listening socket that the test process made outside, hands them
// on to an address in here. Started by Lab.forward.
import { createConnection, type Server } from 'node:net';

const [host, port] = [process.argv[2], Number(process.argv[3])];

process.once('message', (_message, server) => {
  (server as Server).on('connection', (outside) => {
    const inside = createConnection({ host, port });
    outside.on('error', () => inside.destroy());
    inside.on('error', () => outside.destroy());
    outside.pipe(inside).pipe(outside);
  });
  process.send?.('ready');
});
