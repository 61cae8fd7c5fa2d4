export * from './decide.ts';
export * from './file.ts';
export * from './hash.ts';
export * from './notifications.ts';
export * from './recurrence.ts';
export * from './state.ts';
export * from './waves.ts';
