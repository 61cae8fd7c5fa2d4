-- The cluster that a transfer reads: no run of its own may begin there meanwhile. Several may read it at once.
ALTER TABLE runs ADD COLUMN source text REFERENCES clusters (id);
CREATE INDEX runs_active_source ON runs (source)
  WHERE source IS NOT NULL AND status NOT IN ('succeeded', 'failed', 'aborted');

-- What clusters were asked to tell of themselves, and what they said; kept for the plan that is made of it alone.
CREATE TABLE inventories (
  request text PRIMARY KEY,
  node text NOT NULL,
  asked_at_ms bigint NOT NULL,
  inventory jsonb,
  failure text
);
