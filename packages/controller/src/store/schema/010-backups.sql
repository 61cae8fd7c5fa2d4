-- Backups that agents made, one row a node: a run's rows are a set.
CREATE TABLE backups (
  run text NOT NULL REFERENCES runs (id),
  node text NOT NULL,
  receipt jsonb NOT NULL,
  -- By the host's clock, from the receipt: of two for one node the later counts.
  made_at_ms bigint NOT NULL,
  stored_at_ms bigint NOT NULL,
  -- Set once the host said that it removed it, to keep no more than its agent.yaml says.
  removed_at_ms bigint,
  PRIMARY KEY (run, node)
);
CREATE INDEX backups_of_node ON backups (node);
