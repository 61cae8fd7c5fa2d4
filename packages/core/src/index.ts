export * from './action.ts';
export * from './api.ts';
export * from './engine/state.ts';
export * from './errors.ts';
export * from './facts.ts';
export * from './judge.ts';
export * from './plan.ts';
export * from './version.ts';
