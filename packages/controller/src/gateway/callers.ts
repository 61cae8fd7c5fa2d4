/** Whose calls are answered: those with a certificate of our authority, of a node that was not removed from the fleet. */
import * as grpc from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { revokedSerials } from '../store/access.ts';
import type { Database } from '../store/database.ts';
import type { Notices } from '../store/notices.ts';
import { type Call, type Caller, callerOf } from './credentials.ts';

export type Callers = {
  /** Undefined without a certificate that counts. */
  of(call: Call): Caller | undefined;
  /** Whether the call is to be refused; never on a plaintext listener. */
  refuses(call: Call): boolean;
  close(): void;
};

export const REFUSED: Partial<grpc.StatusObject> = {
  code: grpc.status.UNAUTHENTICATED,
  details:
    'no client certificate that counts at this controller: enroll the agent, anew when its node was removed from the fleet',
};

/** A notice may be lost: what was revoked is looked for this often all the same. */
const LOOK_MS = 10_000;

/** Knows at once what was revoked here or at another controller, while the database can be asked. */
export async function openCallers(
  needsCertificate: boolean,
  { database, notices, log }: { database: Database; notices: Notices; log: Logger },
): Promise<Callers> {
  let revoked = new Set(await revokedSerials(database));
  const look = () => {
    revokedSerials(database).then(
      (serials) => {
        revoked = new Set(serials);
      },
      (error: unknown) => log.warn({ err: error }, 'revoked certificates could not be read; those known stay revoked'),
    );
  };
  // A stream that speaks for its node revokes nothing, and a whole fleet can come back at once.
  const stop = notices.on('stream', (payload) => {
    const [, stream = ''] = payload.split(' ');
    if (stream === '') look();
  });
  const timer = setInterval(look, LOOK_MS);
  const of = (call: Call) => {
    const caller = callerOf(call);
    return caller === undefined || revoked.has(caller.serial) ? undefined : caller;
  };
  return {
    of,
    refuses: (call) => needsCertificate && of(call) === undefined,
    close() {
      stop();
      clearInterval(timer);
    },
  };
}
