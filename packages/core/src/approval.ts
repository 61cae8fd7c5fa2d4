/**
 * Approvals: who must agree before something begins, and whether they have. Policies select clusters by label; what they
 * ask together is the strictest of each. An approval is bound to the hash of what it saw, and dies with it or with time.
 */
import Type, { type Static } from 'typebox';

const Count = Type.Integer({ minimum: 0, maximum: 10 });

export const ApprovalPolicy = Type.Object(
  {
    name: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$' }),
    /** All must be on the cluster, with these values. None at all selects every cluster. */
    labels: Type.Record(
      Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$' }),
      Type.String({ maxLength: 200 }),
      {
        maxProperties: 16,
        additionalProperties: false,
      },
    ),
    /** How many people must agree before an upgrade starts. */
    approvers: Count,
    /** How many must agree, apart from that, before the first step that cannot be undone. */
    irreversibleApprovers: Count,
    /** Whether whoever asked for it may be one of them. */
    requesterMayApprove: Type.Boolean(),
    /** How long an approval is good for, and how long one is waited for. */
    validForMs: Type.Integer({ minimum: 60_000, maximum: 31 * 86_400_000 }),
  },
  { additionalProperties: false },
);
export type ApprovalPolicy = Static<typeof ApprovalPolicy>;

export const POLICY_DEFAULTS = {
  labels: {},
  approvers: 1,
  irreversibleApprovers: 0,
  requesterMayApprove: false,
  validForMs: 24 * 3_600_000,
} as const satisfies Omit<ApprovalPolicy, 'name'>;

/** What the policies that select a cluster ask of one thing: of its start, or of its point of no return. */
export const Requirement = Type.Object({
  policies: Type.Array(Type.String()),
  approvers: Type.Integer({ minimum: 1 }),
  requesterMayApprove: Type.Boolean(),
  validForMs: Type.Integer(),
});
export type Requirement = Static<typeof Requirement>;

/** `start`: before anything is done. `irreversible`: before the first step that cannot be undone. */
export const ApprovalScope = Type.Union([Type.Literal('start'), Type.Literal('irreversible')]);
export type ApprovalScope = Static<typeof ApprovalScope>;

/** One person's word. */
export const Approval = Type.Object({
  /** The person, not the token: two tokens of one name are one person. */
  person: Type.String(),
  /** SHA-256 of what they saw. */
  hash: Type.String(),
  atMs: Type.Integer(),
});
export type Approval = Static<typeof Approval>;

/** What an approval is asked for. */
export type ApprovalRequest = {
  /** The person who asked for the thing. */
  readonly requester: string;
  /** SHA-256 of the thing as it is now: of a plan, of a rollout. */
  readonly hash: string;
  readonly requirement: Requirement;
};

export type Demand = Partial<Record<ApprovalScope, Requirement>>;

/** What the policies ask of a cluster with these labels; a scope that nothing is asked of is absent. */
export function demandOf(policies: readonly ApprovalPolicy[], labels: Readonly<Record<string, string>>): Demand {
  const selecting = policies.filter((policy) =>
    Object.entries(policy.labels).every(([key, value]) => labels[key] === value),
  );
  const start = strictest(selecting, ({ approvers }) => approvers);
  const irreversible = strictest(selecting, ({ irreversibleApprovers }) => irreversibleApprovers);
  return { ...(start && { start }), ...(irreversible && { irreversible }) };
}

function strictest(
  policies: readonly ApprovalPolicy[],
  countOf: (policy: ApprovalPolicy) => number,
): Requirement | undefined {
  const asking = policies.filter((policy) => countOf(policy) > 0);
  if (asking.length === 0) return undefined;
  return {
    policies: asking.map(({ name }) => name).sort(),
    approvers: Math.max(...asking.map(countOf)),
    requesterMayApprove: asking.every((policy) => policy.requesterMayApprove),
    validForMs: Math.min(...asking.map((policy) => policy.validForMs)),
  };
}

/** Whether `after` asks for less than `before` anywhere: such a change of labels or policies is not for everybody to make. */
export function loosens(before: Demand, after: Demand): boolean {
  return (['start', 'irreversible'] as const).some((scope) => {
    const [was, is] = [before[scope], after[scope]];
    if (was === undefined) return false;
    if (is === undefined) return true;
    return (
      is.approvers < was.approvers ||
      (is.requesterMayApprove && !was.requesterMayApprove) ||
      is.validForMs > was.validForMs
    );
  });
}

/** What an actor of the audit log is called without the token: `mei (token-20261123-...)` is mei, whatever token she uses. */
export const personOf = (actor: string): string => actor.replace(/ \(token-[0-9a-f-]+\)$/, '');

export type Standing = {
  readonly granted: boolean;
  /** Those that count now: of this hash, not too old, one a person, the requester's only where that is allowed. */
  readonly counted: readonly Approval[];
  readonly missing: number;
};

/** Whether enough people have agreed to exactly this, as of now. What does not count is as if it were not there. */
export function standing(
  { requester, hash, requirement }: ApprovalRequest,
  approvals: readonly Approval[],
  nowMs: number,
): Standing {
  const counted: Approval[] = [];
  for (const approval of approvals) {
    const isDead = approval.hash !== hash || nowMs >= approval.atMs + requirement.validForMs;
    const isOwn = approval.person === requester && !requirement.requesterMayApprove;
    const isDouble = counted.some(({ person }) => person === approval.person);
    if (!isDead && !isOwn && !isDouble) counted.push(approval);
  }
  const missing = Math.max(0, requirement.approvers - counted.length);
  return { granted: missing === 0, counted, missing };
}

/** Why this person's approval would not count, in words; undefined when it would. */
export function objection(
  request: ApprovalRequest,
  approvals: readonly Approval[],
  candidate: Approval,
): string | undefined {
  if (candidate.hash !== request.hash)
    return `it is for ${candidate.hash}, and what is to be approved is ${request.hash}`;
  if (candidate.person === request.requester && !request.requirement.requesterMayApprove) {
    return `${candidate.person} asked for it, and ${request.requirement.policies.join(', ')} wants somebody else to approve`;
  }
  const { counted } = standing(request, approvals, candidate.atMs);
  return counted.some(({ person }) => person === candidate.person)
    ? `${candidate.person} has approved it already`
    : undefined;
}
