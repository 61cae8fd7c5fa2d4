/** Whether a report that somebody has is what the controller has: by its chain of hashes, not by how it looks. */
import { flawOfHistory, type ReportedHistory } from '@kwfleet/core';
import { badInput, CliError, EXIT } from './exit.ts';

/** The history in a JSON report, or in the data of an HTML one. Throws when there is none. */
export function readReport(text: string, where: string): ReportedHistory {
  const data = /<script type="application\/json" id="kwfleet-report">(.*?)<\/script>/s.exec(text)?.[1] ?? text;
  try {
    const { history } = JSON.parse(data) as { history?: Partial<ReportedHistory> };
    const { kind, id, head, events } = history ?? {};
    const known = kind === 'run' || kind === 'rollout';
    if (known && typeof id === 'string' && typeof head === 'string' && Array.isArray(events)) {
      return { kind, id, head, events };
    }
  } catch {
    // Said below: whatever it is, it is no report that carries a history.
  }
  throw badInput(`${where} is no JSON or HTML report.`, 'Make one: `kwfleet run report ID --format html -o FILE`.');
}

/** The sentence that says that it is whole. Throws when it is not, or is of another run. */
export function verifyReport(report: ReportedHistory, controller: ReportedHistory): string {
  const flaw = flawOfHistory(report);
  if (flaw !== undefined) throw refused(`The report was altered: ${flaw}.`);
  const flawThere = flawOfHistory(controller);
  if (flawThere !== undefined) throw refused(`The controller's own history was altered: ${flawThere}.`);
  if (report.kind !== controller.kind || report.id !== controller.id) {
    throw refused(`The report is of ${report.kind} ${report.id}.`);
  }
  const count = report.events.length;
  if (controller.events[count - 1]?.hash !== report.head && count > 0) {
    throw refused("The report is whole, and it is not the controller's: another history has other hashes.");
  }
  const later = controller.events.length - count;
  const since = later === 0 ? '' : `; ${later} more came since it was made`;
  return `The report of ${report.id} is whole: ${count} events, as the controller has them (${report.head})${since}.`;
}

const refused = (message: string) =>
  new CliError(EXIT.refused, message, {
    remedy: 'Take a new report from the controller, and find out who changed this one.',
  });
