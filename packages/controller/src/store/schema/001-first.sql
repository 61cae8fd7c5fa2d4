-- Times are milliseconds since the epoch by this database's clock, the only one that decisions use.
CREATE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE
  AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

CREATE TABLE nodes (
  node text PRIMARY KEY,
  report jsonb,
  first_seen_ms bigint NOT NULL,
  last_seen_ms bigint NOT NULL,
  clock_skew_ms bigint NOT NULL DEFAULT 0,
  -- The stream that speaks for the node; the newest wins.
  stream text,
  -- A controller that dies cannot say that its streams are gone: they end here by themselves.
  connected_until_ms bigint NOT NULL DEFAULT 0
);

CREATE TABLE clusters (
  id text PRIMARY KEY,
  name text NOT NULL,
  labels jsonb NOT NULL DEFAULT '{}',
  -- Rises over all runs of the cluster: agents remember the highest they saw, for the cluster.
  epoch bigint NOT NULL DEFAULT 0,
  first_seen_ms bigint NOT NULL
);

CREATE TABLE packages (
  sha256 text PRIMARY KEY,
  info jsonb NOT NULL,
  added_at_ms bigint NOT NULL,
  added_by text NOT NULL
);

CREATE TABLE plans (
  id text PRIMARY KEY,
  cluster text NOT NULL,
  hash text NOT NULL,
  plan jsonb,
  checks jsonb NOT NULL,
  blocked boolean NOT NULL,
  request jsonb NOT NULL,
  created_at_ms bigint NOT NULL,
  created_by text NOT NULL
);

CREATE TABLE runs (
  id text PRIMARY KEY,
  cluster text NOT NULL REFERENCES clusters (id),
  plan_id text NOT NULL REFERENCES plans (id),
  plan jsonb NOT NULL,
  plan_hash text NOT NULL,
  state jsonb NOT NULL,
  status text NOT NULL,
  epoch bigint NOT NULL DEFAULT 0,
  lease_owner text,
  lease_until_ms bigint NOT NULL DEFAULT 0,
  -- Counters instead of sequences: a number is given under the row's lock, so that a reader who saw N saw all below N.
  input_seq bigint NOT NULL DEFAULT 0,
  applied_seq bigint NOT NULL DEFAULT 0,
  event_seq bigint NOT NULL DEFAULT 0,
  event_hash text NOT NULL DEFAULT '',
  output_seq bigint NOT NULL DEFAULT 0,
  created_at_ms bigint NOT NULL,
  created_by text NOT NULL
);
CREATE UNIQUE INDEX runs_one_active ON runs (cluster) WHERE status NOT IN ('succeeded', 'failed', 'aborted');
CREATE INDEX runs_newest ON runs (created_at_ms DESC, id DESC);

CREATE TABLE run_events (
  run text NOT NULL REFERENCES runs (id),
  seq bigint NOT NULL,
  at_ms bigint NOT NULL,
  event jsonb NOT NULL,
  prev_hash text NOT NULL,
  hash text NOT NULL,
  PRIMARY KEY (run, seq)
);

CREATE TABLE actions (
  id text PRIMARY KEY,
  run text NOT NULL REFERENCES runs (id),
  step text NOT NULL,
  node text NOT NULL,
  action jsonb NOT NULL,
  created_at_ms bigint NOT NULL,
  -- Set by a result, by a later attempt of the same step, or by the end of the run.
  ended_at_ms bigint
);
CREATE INDEX actions_pending ON actions (node) WHERE ended_at_ms IS NULL;
CREATE INDEX actions_of_run ON actions (run, step);

CREATE TABLE run_inputs (
  run text NOT NULL REFERENCES runs (id),
  seq bigint NOT NULL,
  at_ms bigint NOT NULL,
  type text NOT NULL CHECK (type IN ('result', 'progress', 'request')),
  -- For a result: a second one for the same action changes nothing.
  action text,
  body jsonb NOT NULL,
  PRIMARY KEY (run, seq)
);
CREATE UNIQUE INDEX run_inputs_one_result ON run_inputs (action) WHERE type = 'result';

CREATE TABLE action_output (
  action text NOT NULL REFERENCES actions (id),
  run text NOT NULL,
  seq bigint NOT NULL,
  -- As the agent counts; a chunk that comes again changes nothing.
  position bigint NOT NULL,
  at_ms bigint NOT NULL,
  text text NOT NULL,
  PRIMARY KEY (action, position)
);
CREATE UNIQUE INDEX action_output_of_run ON action_output (run, seq);

CREATE TABLE tokens (
  id text PRIMARY KEY,
  hash bytea NOT NULL UNIQUE,
  role text NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
  name text NOT NULL,
  created_at_ms bigint NOT NULL,
  created_by text NOT NULL,
  expires_at_ms bigint,
  revoked_at_ms bigint
);

CREATE TABLE enrollments (
  id text PRIMARY KEY,
  hash bytea NOT NULL UNIQUE,
  -- Absent: for any node that has no certificate yet.
  node text,
  created_at_ms bigint NOT NULL,
  created_by text NOT NULL,
  expires_at_ms bigint NOT NULL,
  used_at_ms bigint,
  used_by text
);

CREATE TABLE certificates (
  serial text PRIMARY KEY,
  node text NOT NULL,
  issued_at_ms bigint NOT NULL,
  enrollment text NOT NULL REFERENCES enrollments (id)
);
CREATE INDEX certificates_of_node ON certificates (node);

CREATE TABLE audit (
  seq bigint PRIMARY KEY,
  at_ms bigint NOT NULL,
  actor text NOT NULL,
  what text NOT NULL,
  detail jsonb NOT NULL,
  prev_hash text NOT NULL,
  hash text NOT NULL
);

CREATE TABLE idempotency (
  -- SHA-256 over the actor and the key they gave.
  key text PRIMARY KEY,
  -- SHA-256 over method, path and body: the key belongs to this request.
  request text NOT NULL,
  claimed_at_ms bigint NOT NULL,
  status integer,
  response text
);
