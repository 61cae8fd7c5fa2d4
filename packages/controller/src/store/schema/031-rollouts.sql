CREATE TABLE rollouts (
  id text PRIMARY KEY,
  name text NOT NULL,
  -- As it was written, and as it was read.
  file text NOT NULL,
  spec jsonb NOT NULL,
  state jsonb NOT NULL,
  status text NOT NULL,
  lease_owner text,
  lease_until_ms bigint NOT NULL DEFAULT 0,
  -- Nothing is written to a rollout that changed since it was read: every change is an event.
  event_seq bigint NOT NULL DEFAULT 0,
  event_hash text NOT NULL DEFAULT '',
  -- Of a rollout that comes again: the one before.
  after text REFERENCES rollouts (id),
  created_at_ms bigint NOT NULL,
  created_by text NOT NULL
);
CREATE INDEX rollouts_newest ON rollouts (created_at_ms DESC, id DESC);
CREATE UNIQUE INDEX rollouts_one_after ON rollouts (after);

CREATE TABLE rollout_events (
  rollout text NOT NULL REFERENCES rollouts (id),
  seq bigint NOT NULL,
  at_ms bigint NOT NULL,
  event jsonb NOT NULL,
  prev_hash text NOT NULL,
  hash text NOT NULL,
  PRIMARY KEY (rollout, seq)
);

-- What the checks said of each cluster before the first wave.
CREATE TABLE rollout_checks (
  rollout text NOT NULL REFERENCES rollouts (id),
  cluster text NOT NULL,
  name text NOT NULL,
  -- Empty for a cluster that no wave takes.
  wave text NOT NULL,
  blocked boolean NOT NULL,
  checks jsonb NOT NULL,
  PRIMARY KEY (rollout, cluster)
);

ALTER TABLE runs ADD COLUMN rollout text REFERENCES rollouts (id);
CREATE UNIQUE INDEX runs_one_of_rollout ON runs (rollout, cluster) WHERE rollout IS NOT NULL;
