-- What people are to be told: written in the transaction of what happened, so that neither is without the other.
CREATE TABLE notifications (
  id text PRIMARY KEY,
  at_ms bigint NOT NULL,
  content jsonb NOT NULL,
  run text,
  -- Not looked at before; then it is handed to the targets of the configuration.
  due_at_ms bigint NOT NULL,
  handed_at_ms bigint
);
CREATE INDEX notifications_due ON notifications (due_at_ms) WHERE handed_at_ms IS NULL;
CREATE INDEX notifications_of_run ON notifications (run) WHERE run IS NOT NULL;
CREATE INDEX notifications_by_age ON notifications (at_ms);

-- One notification for one target. A receiver may see the same id twice, never two ids for the same thing.
CREATE TABLE deliveries (
  id text PRIMARY KEY,
  notification text NOT NULL REFERENCES notifications (id) ON DELETE CASCADE,
  target text NOT NULL,
  status text NOT NULL CHECK (status IN ('pending', 'delivered', 'dead')),
  attempts integer NOT NULL DEFAULT 0,
  due_at_ms bigint NOT NULL,
  -- Whoever delivers it now; free again when that controller does not come back in time.
  leased_until_ms bigint NOT NULL DEFAULT 0,
  last_error text,
  created_at_ms bigint NOT NULL,
  ended_at_ms bigint,
  UNIQUE (notification, target)
);
CREATE INDEX deliveries_due ON deliveries (due_at_ms) WHERE status = 'pending';
CREATE INDEX deliveries_newest ON deliveries (created_at_ms DESC, id DESC);
