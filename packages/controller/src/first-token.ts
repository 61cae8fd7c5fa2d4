/** The first token, for a controller that people reach over the network: nobody could make one otherwise. */
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { createToken, hasToken } from './store/access.ts';
import { audit } from './store/audit.ts';
import type { Database } from './store/database.ts';

const NAME = 'first admin';

/** Once in a database's life; written to `<dataDir>/admin-token`, for its owner alone. Delete the file once it is read. */
export async function makeFirstToken(database: Database, dataDir: string, log: Logger): Promise<void> {
  const file = join(dataDir, 'admin-token');
  const made = await database.transaction(async (sql) => {
    if (await hasToken(sql, NAME)) return false;
    const { secret, row } = await createToken(sql, { role: 'admin', name: NAME, by: 'controller' });
    await audit(sql, 'controller', 'token.create', { token: row.id, role: row.role, name: NAME });
    // Before the commit: a token that nobody was told of would lock everyone out.
    await writeFile(`${file}.partial`, `${secret}\n`, { mode: 0o600, flush: true });
    await rename(`${file}.partial`, file);
    return true;
  });
  if (made) log.info({ file }, 'the first admin token was written');
}
