#!/usr/bin/env node
/** Copies, checks and restores for the agent, as a long command of its own: see src/backup/work.ts. */
import { runWork } from '../src/backup/work.ts';

const [specFile, outcomeFile] = process.argv.slice(2);
process.exitCode = await runWork(specFile, outcomeFile);
