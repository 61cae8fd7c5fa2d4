-- Packages that are to lie on a host before they are needed there.
CREATE TABLE prefetches (
  node text NOT NULL,
  package text NOT NULL REFERENCES packages (sha256) ON DELETE CASCADE,
  asked_at_ms bigint NOT NULL,
  asked_by text NOT NULL,
  -- Set by the agent's answer; with a code when the package could not be brought.
  ended_at_ms bigint,
  code text,
  message text,
  PRIMARY KEY (node, package)
);
CREATE INDEX prefetches_pending ON prefetches (node) WHERE ended_at_ms IS NULL;
