-- Of a node that was removed from the fleet: it opens nothing any more.
ALTER TABLE certificates ADD COLUMN revoked_at_ms bigint;
CREATE INDEX certificates_revoked ON certificates (serial) WHERE revoked_at_ms IS NOT NULL;
