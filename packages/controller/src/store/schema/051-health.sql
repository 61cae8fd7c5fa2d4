-- How each node and cluster is, damped; `id` is `NODE`, `CLUSTER/missing:KWDB_ID`, or a cluster's id.
CREATE TABLE health (
  kind text NOT NULL CHECK (kind IN ('node', 'cluster')),
  id text NOT NULL,
  cluster text,
  record jsonb NOT NULL,
  PRIMARY KEY (kind, id)
);

-- What was told of them, kept for as long as the configuration says.
CREATE TABLE health_events (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL,
  id text NOT NULL,
  cluster text,
  at_ms bigint NOT NULL,
  was text,
  state text NOT NULL,
  detail text NOT NULL,
  -- The run of its cluster that was not ended then.
  run text
);
CREATE INDEX health_events_of_subject ON health_events (kind, id, seq DESC);
CREATE INDEX health_events_of_cluster ON health_events (cluster, seq DESC);
CREATE INDEX health_events_by_age ON health_events (at_ms);
