/** HTML in which everything is text unless it was made here: hosts and people may write what they like. */
export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** What is markup already, by this program's own making. */
export const raw = (text: string): Markup => new Markup(text);

type Part = string | Markup | readonly Part[];

/** A template whose values are escaped, except those that are Markup. */
export const html = (strings: TemplateStringsArray, ...parts: readonly Part[]): Markup =>
  raw(strings.reduce((text, piece, at) => text + (at === 0 ? '' : textOf(parts[at - 1] ?? '')) + piece, ''));

function textOf(part: Part): string {
  if (part instanceof Markup) return part.text;
  if (typeof part !== 'string') return part.map(textOf).join('');
  return part
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
}
