CREATE TABLE windows (
  name text PRIMARY KEY,
  body jsonb NOT NULL,
  changed_at_ms bigint NOT NULL,
  changed_by text NOT NULL
);
