/**
 * A person's signing key in a file: ed25519, encrypted by a passphrase (scrypt, AES-256-GCM). The public half lies in
 * clear, so that others can be told it without a passphrase; it is bound to the secret by the cipher's tag.
 */
import { createCipheriv, createDecipheriv, generateKeyPairSync, randomBytes, scryptSync } from 'node:crypto';
import { open, readFile, stat } from 'node:fs/promises';
import { type SigningKey, signingKey } from '@kwfleet/protocol/tuf';
import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import { badInput } from './exit.ts';

const Base64 = Type.String({ pattern: '^[A-Za-z0-9+/=]+$', maxLength: 1000 });
const KeyFile = Type.Object(
  {
    kwfleet: Type.Literal('signing key'),
    format: Type.Literal(1),
    public: Type.String({ pattern: '^[0-9a-f]{64}$' }),
    scrypt: Type.Object({
      N: Type.Integer({ minimum: 1024, maximum: 1_048_576 }),
      r: Type.Integer({ minimum: 1, maximum: 16 }),
      p: Type.Integer({ minimum: 1, maximum: 4 }),
      salt: Base64,
    }),
    aes256gcm: Type.Object({ iv: Base64, tag: Base64 }),
    secret: Base64,
  },
  { additionalProperties: false },
);
type KeyFile = Static<typeof KeyFile>;

/** About half a second and 128 MiB for each guess. */
const SCRYPT = { N: 131_072, r: 8, p: 1 } as const;
const CIPHER = 'aes-256-gcm';

/** Makes a key and writes it, mode 0600, where nothing lies yet; answers its public half. */
export async function createKeyFile(file: string, passphrase: string): Promise<string> {
  const pem = generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
  const { public: publicKey } = signingKey(pem);
  const [salt, iv] = [randomBytes(16), randomBytes(12)];
  const cipher = createCipheriv(CIPHER, derive(passphrase, { ...SCRYPT, salt: salt.toString('base64') }), iv);
  cipher.setAAD(Buffer.from(publicKey));
  const secret = Buffer.concat([cipher.update(pem, 'utf8'), cipher.final()]);
  const content: KeyFile = {
    kwfleet: 'signing key',
    format: 1,
    public: publicKey,
    scrypt: { ...SCRYPT, salt: salt.toString('base64') },
    aes256gcm: { iv: iv.toString('base64'), tag: cipher.getAuthTag().toString('base64') },
    secret: secret.toString('base64'),
  };
  const handle = await open(file, 'wx', 0o600).catch((error: NodeJS.ErrnoException) => {
    const why = error.code === 'EEXIST' ? 'there is a file already' : error.message;
    throw badInput(`${file} cannot be made: ${why}.`, 'A key is never overwritten: name another file.');
  });
  try {
    await handle.writeFile(`${JSON.stringify(content, null, 2)}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  return publicKey;
}

/** The public half: of a key file, or given as such. */
export async function publicKeyOf(fileOrKey: string): Promise<string> {
  return /^[0-9a-f]{64}$/.test(fileOrKey) ? fileOrKey : (await readKeyFile(fileOrKey)).public;
}

/** The key in the file. Refuses a file that others may read, and a wrong passphrase. */
export async function openKeyFile(file: string, passphrase: () => Promise<string>): Promise<SigningKey> {
  const content = await readKeyFile(file);
  const { mode } = await stat(file);
  if ((mode & 0o077) !== 0) {
    throw badInput(`${file} can be read by others than you.`, `Take that away: chmod 600 ${file}`);
  }
  const { iv, tag } = content.aes256gcm;
  const decipher = createDecipheriv(CIPHER, derive(await passphrase(), content.scrypt), Buffer.from(iv, 'base64'), {
    authTagLength: 16,
  });
  decipher.setAAD(Buffer.from(content.public));
  decipher.setAuthTag(Buffer.from(tag, 'base64'));
  let pem: string;
  try {
    pem = Buffer.concat([decipher.update(Buffer.from(content.secret, 'base64')), decipher.final()]).toString('utf8');
  } catch {
    throw badInput(`${file} does not open with this passphrase.`, 'Give the passphrase it was made with.');
  }
  return signingKey(pem);
}

async function readKeyFile(file: string): Promise<KeyFile> {
  try {
    const content: unknown = JSON.parse(await readFile(file, 'utf8'));
    if (Value.Check(KeyFile, content)) return content;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw badInput(`${file} cannot be read: ${(error as Error).message}`);
  }
  throw badInput(`${file} is no key of kwfleet.`, 'Make one with `kwfleet key create FILE`.');
}

function derive(passphrase: string, { N, r, p, salt }: KeyFile['scrypt']): Buffer {
  return scryptSync(passphrase, Buffer.from(salt, 'base64'), 32, { N, r, p, maxmem: 256 * N * r });
}
