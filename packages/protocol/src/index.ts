export * from './certificate.ts';
export * from './giver.ts';
export * from './peer.ts';
export { agentGateway, enrollment } from './service.ts';
export * from './wire.ts';
