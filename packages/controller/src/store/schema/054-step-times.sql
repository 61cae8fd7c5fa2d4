-- What a run with windows reckons that its steps take, as it was known when the run was made; null: what is stated.
ALTER TABLE runs ADD COLUMN step_times jsonb;
