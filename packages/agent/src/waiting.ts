/** Progress and output that wait for a stream, bounded. */
import type { AgentMessage } from '@kwfleet/protocol';

type Ordered = Extract<AgentMessage, { progress: unknown } | { output: unknown }>;
type Entry = { readonly message: Ordered; readonly lines: number };

const MAX_MESSAGES = 10_000;
const MAX_BYTES = 8 * 1024 * 1024;
/** About what a message takes besides its text. */
const MESSAGE_BYTES = 200;

/** First in, first out. When there is too much the oldest goes, and output says how much of it is missing. */
export class Waiting {
  #entries: Entry[] = [];
  #sizeBytes = 0;

  push(message: Ordered): void {
    this.#add(this.#entries.length, { message, lines: 1 });
    while (this.#entries.length > MAX_MESSAGES || this.#sizeBytes > MAX_BYTES) this.#forgetOldest();
  }

  shift(): Ordered | undefined {
    return this.#take()?.message;
  }

  #add(at: number, entry: Entry): void {
    this.#entries.splice(at, 0, entry);
    this.#sizeBytes += sizeOf(entry);
  }

  #take(): Entry | undefined {
    const entry = this.#entries.shift();
    if (entry !== undefined) this.#sizeBytes -= sizeOf(entry);
    return entry;
  }

  /** Progress just goes. Of two pieces of output, or what stands for some, a line in their place says how many are missing. */
  #forgetOldest(): void {
    const first = this.#take();
    if (first === undefined || !('output' in first.message)) return;
    const { action, offset } = first.message.output;
    const second = this.#take();
    const output = second !== undefined && 'output' in second.message ? second.message.output : undefined;
    const lines = first.lines + (output?.action === action ? (second?.lines ?? 0) : 0);
    const text = `[${lines} lines are missing here: they did not reach the controller]\n`;
    this.#add(0, { message: { output: { action, offset, text } }, lines });
  }
}

const sizeOf = ({ message }: Entry): number =>
  MESSAGE_BYTES + Buffer.byteLength('output' in message ? message.output.text : message.progress.detail);
