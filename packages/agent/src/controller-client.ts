/** A client of the controller's gateway, which must prove that it is the one at the address that the agent was given. */
import { isIP } from 'node:net';
import { checkServerIdentity } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import type { Identity } from './enroll.ts';

/** What is shown and trusted: whoever enrolls has no certificate of its own yet. */
type Keys = Pick<Identity, 'authority'> & Partial<Identity>;

/** TLS names a server by its DNS name only (RFC 6066, section 3). Where there is none, this one goes over the wire. */
const UNNAMED = 'controller.kwfleet.invalid';

/** `address` is `HOST:PORT`, which the controller's certificate must name; without `keys` the link is plaintext. */
export function controllerClient(
  address: string,
  keys: Keys | undefined,
  options: grpc.ChannelOptions = {},
): grpc.Client {
  if (keys === undefined) return new grpc.Client(address, grpc.credentials.createInsecure(), options);
  const { authority, key = null, certificate = null } = keys;
  const { host } = splitAddress(address);
  if (isIP(host) === 0) {
    return new grpc.Client(address, grpc.credentials.createSsl(authority, key, certificate), options);
  }
  const credentials = grpc.credentials.createSsl(authority, key, certificate, {
    checkServerIdentity: (_, presented) => checkServerIdentity(host, presented),
  });
  return new grpc.Client(address, credentials, { ...options, 'grpc.ssl_target_name_override': UNNAMED });
}

/** One question, one answer. Rejects with the call's status when there is none within `timeoutMs`. */
export function askOnce<Request, Response>(
  client: grpc.Client,
  { path, requestSerialize, responseDeserialize }: grpc.MethodDefinition<Request, Response>,
  request: Request,
  timeoutMs: number,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    const done = (error: grpc.ServiceError | null, answer?: Response) => {
      if (error === null && answer !== undefined) resolve(answer);
      else reject(error ?? new Error('an empty answer'));
    };
    const options = { deadline: Date.now() + timeoutMs };
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, new grpc.Metadata(), options, done);
  });
}

/** `HOST:PORT`, where an IPv6 address stands in brackets. */
export function splitAddress(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':');
  return { host: address.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(address.slice(at + 1)) };
}
