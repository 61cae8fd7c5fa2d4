import manifest from '../package.json' with { type: 'json' };

/** The release that this code is of; agent, controller and command line of one checkout have the same. */
export const RELEASE: string = manifest.version;
