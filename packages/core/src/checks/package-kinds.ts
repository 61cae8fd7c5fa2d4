/** What each deployment method can install. */
import type { PackageInfo } from '../action.ts';
import type { Method } from '../facts.ts';

/** Which kinds of packages a deployment method takes. Source: KWDB facts, "The package", "Containers by hand". */
const PACKAGE_KINDS: Readonly<Record<Method, readonly PackageInfo['kind'][]>> = {
  'script-bare': ['bare'],
  'script-container': ['container'],
  compose: ['container', 'image-archive', 'image'],
  'docker-run': ['container', 'image-archive', 'image'],
  source: ['tree', 'build'],
};
export const takesPackage = (method: Method, kind: PackageInfo['kind']): boolean =>
  PACKAGE_KINDS[method].includes(kind);
