-- What clients of the database felt during a run, as whoever drove them says.
CREATE TABLE client_views (
  run text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  source text NOT NULL,
  view jsonb NOT NULL,
  at_ms bigint NOT NULL,
  recorded_by text NOT NULL,
  PRIMARY KEY (run, source)
);
