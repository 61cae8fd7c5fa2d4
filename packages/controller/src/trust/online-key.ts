/** The controller's own key: it says what is newest, and can publish nothing once people's keys have taken over. */
import { generateKeyPairSync } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type SigningKey, signingKey } from '@kwfleet/protocol/tuf';

/** Reads `<dataDir>/trust/online.key` (PKCS#8, PEM), or makes it at the first start. */
export async function openOnlineKey(dataDir: string): Promise<SigningKey> {
  const folder = join(dataDir, 'trust');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const file = join(folder, 'online.key');
  const kept = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (kept !== undefined) return signingKey(kept);
  const pem = generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
  const partial = `${file}.partial`;
  await writeFile(partial, pem, { mode: 0o600, flush: true });
  await rename(partial, file);
  return signingKey(pem);
}
