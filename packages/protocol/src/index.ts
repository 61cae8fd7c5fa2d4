export { agentGateway, enrollment } from './service.ts';
export * from './wire.ts';
