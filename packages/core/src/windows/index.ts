export * from './admission.ts';
export * from './estimate.ts';
export * from './spans.ts';
export * from './window.ts';
