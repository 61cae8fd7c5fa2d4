/** `tokens`, `token ...` and `enrollment create`: access for people and for agents. */
import { type Command, Option } from 'commander';
import { parseDuration } from '../arguments.ts';
import type { EnrollmentRequest, Role, TokenRequest, TokenView } from '../client.ts';
import { type Context, examples } from '../context.ts';
import { columns } from '../render/columns.ts';
import { dayTime, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';

/** Adds the commands of access. */
export function addAccess(program: Command, context: Context): void {
  addTokens(program, context);
  addEnrollment(program, context);
}

function addTokens(program: Command, context: Context): void {
  program
    .command('tokens')
    .helpGroup('Access:')
    .description('List the tokens that open something, newest first')
    .option('--all', 'those that expired or were revoked too')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet tokens'))
    .action(async ({ all, json }: { all?: true; json?: true }, command: Command) => {
      const tokens = await context.client(command).tokens();
      const items = all ? tokens : tokens.filter((token) => stateOf(token, Date.now()) === 'open');
      if (json) return context.terminal.json({ items });
      context.terminal.lines(tokenTable(items, context.terminal.theme, context.terminal.width()));
    });
  const token = program
    .command('token')
    .helpCommand(false)
    .helpGroup('Access:')
    .description('Give people and programs access to the controller');
  token.addHelpText('after', examples('kwfleet token create --role viewer'));
  token
    .command('create')
    .description('Make a token; it is shown once and stored only as a hash')
    .addOption(
      new Option('--role <ROLE>', 'what it may do')
        .choices(['viewer', 'operator', 'approver', 'admin'])
        .makeOptionMandatory(),
    )
    .option('--name <NAME>', 'whose it is, for the audit log')
    .option('--expires <DURATION>', 'after how long it ends, like 90d', parseDuration)
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet token create --role operator --name mei --expires 90d'))
    .action(async (flags: { role: Role; name?: string; expires?: number; json?: true }, command: Command) => {
      const request: TokenRequest = { role: flags.role };
      if (flags.name !== undefined) request.name = flags.name;
      if (flags.expires !== undefined) request.expiresInMs = flags.expires;
      const made = await context.client(command).createToken(request);
      if (flags.json) return context.terminal.json(made);
      const until = made.expiresAtMs === undefined ? '' : `, valid until ${dayTime(made.expiresAtMs)}`;
      context.terminal.lines([
        `A token of the role ${made.role}${until}. It is not shown again:`,
        `  export KWFLEET_TOKEN=${made.token}`,
      ]);
    });
  token
    .command('revoke')
    .description('Revoke a token: it opens nothing from now on')
    .argument('ID', 'the token, as `kwfleet tokens` lists it')
    .addHelpText('after', examples('kwfleet token revoke token-7f3k2'))
    .action(async (id: string, _flags: object, command: Command) => {
      await context.client(command).revokeToken(id);
      context.terminal.line(`token ${id} is revoked`);
    });
}

function addEnrollment(program: Command, context: Context): void {
  const enrollment = program
    .command('enrollment')
    .helpCommand(false)
    .helpGroup('Access:')
    .description('Let new agents in');
  enrollment.addHelpText('after', examples('kwfleet enrollment create'));
  enrollment
    .command('create')
    .description('Make a one-time token with which an agent gets its certificate')
    .option('--node <NODE>', 'only for this node; needed for one that was enrolled before')
    .option('--expires <DURATION>', 'after how long it is worthless, like 1h (default: 1d)', parseDuration)
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet enrollment create --expires 1h'))
    .action(async (flags: { node?: string; expires?: number; json?: true }, command: Command) => {
      const request: EnrollmentRequest = {};
      if (flags.node !== undefined) request.node = flags.node;
      if (flags.expires !== undefined) request.expiresInMs = flags.expires;
      const made = await context.client(command).createEnrollment(request);
      if (flags.json) return context.terminal.json(made);
      context.terminal.lines([
        `A token for ${made.node ?? 'one new agent'}, valid until ${dayTime(made.expiresAtMs)}. It is not shown again:`,
        `  ${made.token}`,
        ...(made.fingerprint === undefined
          ? []
          : [
              'By this the agent knows the controller (enrollment.authority_sha256 in its configuration):',
              `  ${made.fingerprint}`,
            ]),
        ...(made.packageRootSha256 === undefined
          ? []
          : ['By this it knows whose packages it may install (packages.root_sha256):', `  ${made.packageRootSha256}`]),
      ]);
    });
}

type TokenState = 'open' | 'expired' | 'revoked';

function stateOf({ expiresAtMs, revokedAtMs }: TokenView, nowMs: number): TokenState {
  if (revokedAtMs !== undefined) return 'revoked';
  return expiresAtMs !== undefined && expiresAtMs <= nowMs ? 'expired' : 'open';
}

/** The lines of `kwfleet tokens`. */
export function tokenTable(
  items: readonly TokenView[],
  theme: Theme,
  width: number | undefined,
  nowMs = Date.now(),
): string[] {
  if (items.length === 0) return ['No token yet: `kwfleet token create` makes one.'];
  const rows = items.map((token) => {
    const state = stateOf(token, nowMs);
    const until = token.expiresAtMs === undefined ? 'no end' : dayTime(token.expiresAtMs);
    const made = `${dayTime(token.createdAtMs)} by ${oneLine(token.createdBy)}`;
    return [token.id, token.role, oneLine(token.name), made, state === 'open' ? until : state];
  });
  const head = ['TOKEN', 'ROLE', 'NAME', 'MADE', 'UNTIL'];
  const [first = '', ...rest] = columns([head, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}
