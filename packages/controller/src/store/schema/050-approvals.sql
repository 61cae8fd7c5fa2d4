CREATE TABLE approval_policies (
  name text PRIMARY KEY,
  policy jsonb NOT NULL,
  changed_at_ms bigint NOT NULL,
  changed_by text NOT NULL
);

-- What waits, or waited, for people: `run:ID`, `run:ID/irreversible`, and what else names itself.
CREATE TABLE approval_requests (
  subject text PRIMARY KEY,
  -- A run's requests are open as long as the run is.
  run text REFERENCES runs (id),
  title text NOT NULL,
  -- Of what is to be approved, as it is now: approvals of another hash do not count.
  hash text NOT NULL,
  requirement jsonb NOT NULL,
  requester text NOT NULL,
  requested_at_ms bigint NOT NULL,
  closed_at_ms bigint
);
CREATE INDEX approval_requests_newest ON approval_requests (requested_at_ms DESC, subject DESC);

CREATE TABLE approvals (
  subject text NOT NULL REFERENCES approval_requests (subject),
  person text NOT NULL,
  hash text NOT NULL,
  -- Whose token: the person is told apart from it.
  actor text NOT NULL,
  comment text,
  at_ms bigint NOT NULL
);
CREATE INDEX approvals_of_subject ON approvals (subject, at_ms);
