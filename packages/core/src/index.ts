export * from './action.ts';
export * from './errors.ts';
export * from './facts.ts';
export * from './judge.ts';
export * from './version.ts';
