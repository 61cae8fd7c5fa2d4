import type { RunEventView } from '@kwfleet/core';
import { describe, expect, it } from 'vitest';
import { Client } from '../src/client.ts';
import { EXIT } from '../src/exit.ts';
import { type Followed, follow, retryDelayMs } from '../src/follow.ts';
import { terminal } from '../src/terminal.ts';
import { jsonView, plainView } from '../src/views.ts';
import { watchRun } from '../src/watch.ts';
import {
  type Answer,
  allSteps,
  controllerOf,
  eventText,
  eventView,
  HOLD,
  json,
  runView,
  STARTED_MS,
  UNKNOWN_RUN,
  Written,
} from './fixtures.ts';

const stream = (events: readonly RunEventView[], end: 'cut' | 'end' | 'open'): Answer => {
  return (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(`: hello\n\n${events.map(eventText).join('')}`, () => {
      if (end === 'cut') response.destroy();
      if (end === 'end') response.end();
    });
  };
};

/** One answer after the other; the last one stays. */
const inTurn = (...answers: readonly Answer[]): Answer => {
  let at = 0;
  return (response, asked) => {
    answers[Math.min(at, answers.length - 1)]?.(response, asked);
    at += 1;
  };
};

const noWait = async () => {};
const events = [1, 2, 3, 4].map((seq) => eventView(seq, 'step-progressed', `event ${seq}`));

describe('following events', () => {
  it('takes up where a cut connection left, and yields every event once', async () => {
    await using controller = await controllerOf({
      'GET /v1/runs/run-1/events': inTurn(
        stream(events.slice(0, 2), 'cut'),
        json({ ...UNKNOWN_RUN, status: 503, code: 'UNAVAILABLE' }, 503),
        stream(events.slice(1), 'open'),
      ),
    });
    const over = new AbortController();
    const seen: Followed[] = [];
    const client = new Client({ server: controller.url });
    for await (const item of follow({ client, run: 'run-1', signal: over.signal, wait: noWait })) {
      seen.push(item);
      if (item.kind === 'event' && item.event.seq === 4) over.abort();
    }
    expect(seen.flatMap((item) => (item.kind === 'event' ? [item.event.message] : []))).toEqual([
      'event 1',
      'event 2',
      'event 3',
      'event 4',
    ]);
    expect(seen.filter(({ kind }) => kind === 'lost')).toHaveLength(2);
    expect(controller.asked.map(({ headers }) => headers['last-event-id'])).toEqual([undefined, '2', '2']);
  });

  it('gives a silent connection up and makes a new one', async () => {
    await using controller = await controllerOf({
      'GET /v1/runs/run-1/events': inTurn(stream(events.slice(0, 1), 'open'), stream(events.slice(1, 2), 'open')),
    });
    const over = new AbortController();
    const kinds: string[] = [];
    const client = new Client({ server: controller.url });
    for await (const item of follow({ client, run: 'run-1', signal: over.signal, silenceMs: 30, wait: noWait })) {
      kinds.push(item.kind);
      if (item.kind === 'event' && item.event.seq === 2) over.abort();
    }
    expect(kinds).toEqual(['open', 'event', 'lost', 'open', 'event']);
  });

  it('does not go on asking for a run that does not exist', async () => {
    await using controller = await controllerOf({});
    const items = follow({
      client: new Client({ server: controller.url }),
      run: 'nope',
      signal: new AbortController().signal,
    });
    await expect(items.next()).rejects.toMatchObject({ exitCode: EXIT.refused });
  });

  it('waits longer after each failure, and never longer than a quarter of a minute', () => {
    expect([1, 2, 3, 10, 1000].map(retryDelayMs)).toEqual([500, 1000, 2000, 15_000, 15_000]);
  });
});

describe('watching a run', () => {
  const started = eventView(1, 'run-started', 'the upgrade starts');
  const piece = (text: string) =>
    eventView(0, 'output', text.trimEnd(), { step: 'upgrade:db-1', node: 'db-1', event: { text } });

  const watched = async (answers: Record<string, Answer>, how: { stay?: boolean; answeredHoldMs?: number } = {}) => {
    await using controller = await controllerOf(answers);
    const client = new Client({ server: controller.url });
    const out = new Written();
    const view = plainView(terminal(out, { LANG: 'C.UTF-8' }), () => STARTED_MS);
    const { signal } = new AbortController();
    const code = await watchRun({ client, run: 'run-1', view, signal, wait: noWait, graceMs: 200, gapMs: 0, ...how });
    return { code, lines: out.lines };
  };

  it('tells every event in a line with its time and ends with 0 when the run succeeded', async () => {
    const ended = eventView(9, 'run-ended', 'all nodes were observed at 3.1.0');
    const { code, lines } = await watched({
      'GET /v1/runs/run-1': inTurn(json(runView(1, {})), json(runView(1, allSteps('db-1'), { status: 'succeeded' }))),
      'GET /v1/runs/run-1/events': stream(
        [started, piece('half a li'), piece('ne\n\u001b[1mnext\u001b[0m\n'), piece('last'), ended],
        'open',
      ),
    });
    expect(code).toBe(EXIT.done);
    expect(lines).toEqual([
      '2026-11-23T22:00:01Z  the upgrade starts',
      '2026-11-23T22:00:00Z  db-1 |  half a line',
      '2026-11-23T22:00:00Z  db-1 |  next',
      '2026-11-23T22:00:09Z  db-1 |  last',
      '2026-11-23T22:00:09Z  all nodes were observed at 3.1.0',
      '2026-11-23T22:00:00Z  run run-1 succeeded: 4 of 4 steps done; report: kwfleet run report run-1',
    ]);
  });

  it('ends with 3 when a person must look, and says what to do', async () => {
    const held = eventView(5, 'run-held', 'held on db-2', { event: { type: 'run-held', hold: HOLD } });
    const earlier = eventView(3, 'run-held', 'held before', {
      event: { type: 'run-held', hold: { ...HOLD, sinceMs: 1 } },
    });
    const { code, lines } = await watched({
      'GET /v1/runs/run-1': json(runView(2, {}, { status: 'held', hold: HOLD })),
      'GET /v1/runs/run-1/events': stream([started, earlier, held], 'open'),
    });
    expect(code).toBe(EXIT.held);
    expect(lines.map((line) => line.slice(22))).toEqual([
      'the upgrade starts',
      'held before',
      'held on db-2',
      'run run-1 is held on db-2: INSTALL_FAILED: deploy.sh ended with 1; 3.0.0 was put back and serves',
      'it said: dpkg: No space left on device',
      "do: See the host's own words.",
      'choices  kwfleet run retry run-1   look again, and go on if all is well',
      'kwfleet run abort run-1   end it; put back what still can be',
    ]);
  });

  it('does not take the hold that was just answered for a new one', async () => {
    const heldView = runView(1, {}, { status: 'held', hold: HOLD });
    const failedView = runView(1, {}, { status: 'failed' });
    const { code } = await watched(
      {
        'GET /v1/runs/run-1': inTurn(json(heldView), json(heldView), json(failedView)),
        'GET /v1/runs/run-1/events': stream(
          [eventView(5, 'run-held', 'held', { event: { hold: HOLD } }), eventView(6, 'run-ended', 'failed')],
          'open',
        ),
      },
      { answeredHoldMs: HOLD.sinceMs },
    );
    expect(code).toBe(EXIT.failed);
  });

  it('goes on through a hold that clears itself', async () => {
    const lost = runView(1, {}, { status: 'held', hold: { ...HOLD, selfClearing: true } });
    const { code } = await watched({
      'GET /v1/runs/run-1': inTurn(json(lost), json(lost), json(runView(1, {}, { status: 'succeeded' }))),
      'GET /v1/runs/run-1/events': stream(
        [eventView(5, 'run-held', 'agent lost', { event: { hold: HOLD } }), eventView(6, 'run-ended', 'done')],
        'open',
      ),
    });
    expect(code).toBe(EXIT.done);
  });

  it('ends with an ended run even when the controller tells no events of it', async () => {
    const { code } = await watched({
      'GET /v1/runs/run-1': json(runView(1, {}, { status: 'aborted' })),
      'GET /v1/runs/run-1/events': stream([], 'end'),
    });
    expect(code).toBe(EXIT.failed);
  });

  it('ends when there is nothing more to come of a run', async () => {
    const { code } = await watched({
      'GET /v1/runs/run-1': json(runView(1, {}, { status: 'succeeded' })),
      'GET /v1/runs/run-1/events': (response) => void response.writeHead(204).end(),
    });
    expect(code).toBe(EXIT.done);
  });

  it('gives programs the events as the API has them', () => {
    const out = new Written();
    jsonView(terminal(out, {})).event(started);
    expect(out.lines.map((line) => JSON.parse(line))).toEqual([started]);
  });
});
