-- Agents that give packages to their peers: where they listen, and what they hold whole and verified.
CREATE TABLE peers (
  node text PRIMARY KEY,
  address text NOT NULL,
  packages text[] NOT NULL,
  told_at_ms bigint NOT NULL
);
