/** The agent's part of a host's disk: the journal's bytes survive the process, and the host. */
export class Disk {
  chunks: Uint8Array[] = [];
  full = false;

  read(): Uint8Array {
    const whole = Buffer.concat(this.chunks);
    this.chunks = [whole];
    return whole;
  }

  /** A write that is cut off leaves any prefix. */
  append(bytes: Uint8Array, lengthBytes: number = bytes.length): void {
    this.chunks.push(lengthBytes === bytes.length ? bytes : bytes.slice(0, lengthBytes));
  }

  replace(bytes: Uint8Array): void {
    this.chunks = [Uint8Array.from(bytes)];
  }
}
