import { createHash } from 'node:crypto';

/**
 * The name under which a node proves to its peers who it is: a DNS name in its certificate, made from the node's name
 * so that whatever a node is called, it can never pass for a controller.
 */
export const peerName = (node: string): string =>
  `${createHash('sha256').update(node).digest('hex').slice(0, 40)}.peer.kwfleet.invalid`;
