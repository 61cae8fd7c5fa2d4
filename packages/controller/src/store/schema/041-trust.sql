-- The repository of The Update Framework, as text: signatures are over exactly this.
CREATE TABLE trust_metadata (
  role text NOT NULL CHECK (role IN ('root', 'targets', 'snapshot', 'timestamp')),
  version bigint NOT NULL,
  body text NOT NULL,
  stored_at_ms bigint NOT NULL,
  PRIMARY KEY (role, version)
);

-- What people have begun to sign, until enough of them have.
CREATE TABLE trust_staged (
  role text PRIMARY KEY CHECK (role IN ('root', 'targets')),
  body text NOT NULL,
  stored_at_ms bigint NOT NULL
);
