import type { Action, ActionProgress, ActionResult, ClusterHealth, NodeReport, PackageInfo } from '@kwfleet/core';
import {
  ActionProgress as ActionProgressSchema,
  ActionResult as ActionResultSchema,
  Action as ActionSchema,
  Inventory,
  NodeReport as NodeReportSchema,
  PackageInfo as PackageInfoSchema,
} from '@kwfleet/core';
import protobuf from 'protobufjs/light.js';
import Type, { type Static } from 'typebox';
import Schema from 'typebox/schema';
import descriptor from './generated/descriptor.json' with { type: 'json' };

/** The version of the contract between agent and controller; both sides refuse another one. */
export const PROTOCOL = 1;

/** So many images a host is asked about at once. */
export const IMAGES_ASKED_MAX = 4;

const Hello = Type.Object({
  node: Type.String({ minLength: 1, maxLength: 253 }),
  agentVersion: Type.String(),
  protocol: Type.Integer(),
  inHand: Type.Array(Type.String()),
});
const Heartbeat = Type.Object({ clockMs: Type.Integer(), serving: Type.Boolean(), ready: Type.Boolean() });
const ActionOutput = Type.Object({ action: Type.String(), offset: Type.Integer(), text: Type.String() });
const Welcome = Type.Object({ clockMs: Type.Integer(), protocol: Type.Integer(), heartbeatMs: Type.Integer() });
const Prefetched = Type.Object({
  sha256: Type.String(),
  code: Type.Optional(Type.String()),
  message: Type.Optional(Type.String()),
});
const EnrollRequest = Type.Object({ token: Type.String(), node: Type.String(), signingRequest: Type.String() });
const RenewCertificateRequest = Type.Object({ signingRequest: Type.String() });
const EnrollResponse = Type.Object({ certificate: Type.String(), authority: Type.String() });
const InventoryRequest = Type.Object({ request: Type.String() });
const InventoryAnswer = Type.Object({
  request: Type.String(),
  inventory: Type.Optional(Inventory),
  failure: Type.Optional(Type.String()),
});
/** Names of directories on the controller: nothing in them means anything to a path. */
const DirectoryName = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9_-]{0,120}$' });
const FileRef = Type.Object({
  run: DirectoryName,
  unit: DirectoryName,
  sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  sizeBytes: Type.Integer({ minimum: 0 }),
  unitBytes: Type.Integer({ minimum: 0 }),
});
const FileState = Type.Object({
  receivedBytes: Type.Integer({ minimum: 0 }),
  complete: Type.Boolean(),
  full: Type.Boolean(),
});
const FilePart = Type.Object({
  file: Type.Optional(FileRef),
  offset: Type.Integer({ minimum: 0 }),
  data: Type.Unknown(),
});
const FileReceipt = Type.Object({ intact: Type.Boolean() });
const FetchFileRequest = Type.Object({ file: FileRef, offset: Type.Integer({ minimum: 0 }) });
const Node = Type.Optional(Type.String({ minLength: 1, maxLength: 253 }));
const FetchPackageRequest = Type.Object({
  sha256: Type.String(),
  offset: Type.Integer({ minimum: 0 }),
  node: Node,
});
const FindPeersRequest = Type.Object({ sha256: Type.String(), node: Node });
const Address = Type.String({ pattern: '^(\\[[0-9a-fA-F:.]+\\]|[^\\s:/]+):[0-9]{1,5}$', maxLength: 300 });
const Peer = Type.Object({ node: Type.String(), address: Address });
const FindPeersResponse = Type.Object({ peers: Type.Array(Peer) });
const Holdings = Type.Object({
  address: Type.Optional(Address),
  sha256s: Type.Array(Type.String({ pattern: '^[0-9a-f]{64}$' }), { maxItems: 1000 }),
});

export type Hello = Static<typeof Hello>;
export type Heartbeat = Static<typeof Heartbeat>;
export type ActionOutput = Static<typeof ActionOutput>;
export type Welcome = Static<typeof Welcome>;
export type Prefetched = Static<typeof Prefetched>;
export type EnrollRequest = Static<typeof EnrollRequest>;
export type RenewCertificateRequest = Static<typeof RenewCertificateRequest>;
export type EnrollResponse = Static<typeof EnrollResponse>;
export type FetchPackageRequest = Static<typeof FetchPackageRequest>;
export type FindPeersRequest = Static<typeof FindPeersRequest>;
export type FindPeersResponse = Static<typeof FindPeersResponse>;
export type Peer = Static<typeof Peer>;
export type Holdings = Static<typeof Holdings>;
export type FetchMetadataRequest = { name: string };
export type MetadataFile = { data: Uint8Array };
export type InventoryAnswer = Static<typeof InventoryAnswer>;
export type FileRef = Static<typeof FileRef>;
export type FileState = Static<typeof FileState>;
/** The first part names the file and where its bytes begin; the others carry bytes. */
export type FilePart = { file?: FileRef; offset: number; data: Uint8Array };
export type FileReceipt = Static<typeof FileReceipt>;
export type FetchFileRequest = Static<typeof FetchFileRequest>;
export type PackageChunk = { data: Uint8Array };

export type AgentMessage =
  | { hello: Hello }
  | { report: NodeReport }
  | { heartbeat: Heartbeat }
  | { progress: ActionProgress }
  | { output: ActionOutput }
  | { result: ActionResult }
  | { prefetched: Prefetched }
  | { inventory: InventoryAnswer }
  | { holdings: Holdings };

export type ControllerMessage =
  | { welcome: Welcome }
  | { action: Action }
  | { resultStored: { action: string } }
  | { reportRequest: { images: readonly PackageInfo[] } }
  | { prefetch: { package: PackageInfo } }
  | { inventoryRequest: { request: string } };

const root = protobuf.Root.fromJSON(descriptor as protobuf.INamespace);

/** A message whose bytes are protobuf and whose contents are checked against the core's schema on the way in. */
export type Codec<T> = { encode(message: T): Buffer; decode(bytes: Uint8Array): T };

/** Lists whose absence means unknown travel in a message of their own; in the core they are plain arrays. */
const WRAPPED: ReadonlySet<string> = new Set([
  'jobs',
  'leases',
  'sessions',
  'settings',
] satisfies (keyof ClusterHealth)[]);

function wrap(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(wrap);
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key,
      WRAPPED.has(key) && item !== undefined ? { items: wrap(item) } : wrap(item),
    ]),
  );
}

function unwrap(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(unwrap);
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== null)
      .map(([key, item]) => [key, WRAPPED.has(key) ? unwrap((item as { items: unknown }).items) : unwrap(item)]),
  );
}

function codec<T>(name: string, schema: Type.TSchema): Codec<T> {
  const type = root.lookupType(`kwfleet.v1.${name}`);
  const validator = Schema.Compile(schema);
  return {
    encode: (message) => Buffer.from(type.encode(type.fromObject(wrap(message) as Record<string, unknown>)).finish()),
    decode(bytes) {
      const message = unwrap(type.toObject(type.decode(bytes), { longs: Number, defaults: true, arrays: true }));
      if (validator.Check(message)) return message as T;
      const [, errors] = validator.Errors(message);
      const first = errors[0];
      throw new TypeError(`${name} is not as agreed: ${first?.instancePath ?? ''} ${first?.message ?? ''}`);
    },
  };
}

const one = (fields: Record<string, Type.TSchema>) =>
  Type.Union(Object.entries(fields).map(([name, schema]) => Type.Object({ [name]: schema })));

export const agentMessage = codec<AgentMessage>(
  'AgentMessage',
  one({
    hello: Hello,
    report: NodeReportSchema,
    heartbeat: Heartbeat,
    progress: ActionProgressSchema,
    output: ActionOutput,
    result: ActionResultSchema,
    prefetched: Prefetched,
    inventory: InventoryAnswer,
    holdings: Holdings,
  }),
);

export const controllerMessage = codec<ControllerMessage>(
  'ControllerMessage',
  one({
    welcome: Welcome,
    action: ActionSchema,
    resultStored: Type.Object({ action: Type.String() }),
    reportRequest: Type.Object({ images: Type.Array(PackageInfoSchema, { maxItems: IMAGES_ASKED_MAX }) }),
    prefetch: Type.Object({ package: PackageInfoSchema }),
    inventoryRequest: InventoryRequest,
  }),
);

/** For the agent's journal and the controller's store, which keep the same messages. */
export const enrollRequest = codec<EnrollRequest>('EnrollRequest', EnrollRequest);
export const renewCertificateRequest = codec<RenewCertificateRequest>(
  'RenewCertificateRequest',
  RenewCertificateRequest,
);
export const enrollResponse = codec<EnrollResponse>('EnrollResponse', EnrollResponse);
export const fetchPackageRequest = codec<FetchPackageRequest>('FetchPackageRequest', FetchPackageRequest);
export const findPeersRequest = codec<FindPeersRequest>('FindPeersRequest', FindPeersRequest);
export const findPeersResponse = codec<FindPeersResponse>('FindPeersResponse', FindPeersResponse);
export const fetchMetadataRequest = codec<FetchMetadataRequest>(
  'FetchMetadataRequest',
  Type.Object({ name: Type.String({ maxLength: 60 }) }),
);
export const metadataFile = codec<MetadataFile>('MetadataFile', Type.Object({ data: Type.Unknown() }));
export const fileRef = codec<FileRef>('FileRef', FileRef);
export const fileState = codec<FileState>('FileState', FileState);
export const filePart = codec<FilePart>('FilePart', FilePart);
export const fileReceipt = codec<FileReceipt>('FileReceipt', FileReceipt);
export const fetchFileRequest = codec<FetchFileRequest>('FetchFileRequest', FetchFileRequest);
export const packageChunk = codec<PackageChunk>('PackageChunk', Type.Object({ data: Type.Unknown() }));
