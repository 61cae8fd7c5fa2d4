/** What an agent tells of a cluster for a transfer: nothing that somebody made is left out without a word. */
import { describe, expect, it } from 'vitest';
import { takeInventory } from '../src/transfer/inventory.ts';
import { ReadingSql } from '../src/transfer/sql-client.ts';

/** A database that answers each question by the table it asks. */
function database(answers: Readonly<Record<string, string>>): ReadingSql {
  const answerOf = (text: string): string => {
    if (text.startsWith('SELECT 1 AS')) return `${text.slice(12)}\n1\n`;
    const [, found = 'header\n'] = Object.entries(answers).find(([table]) => text.includes(table)) ?? [];
    return found;
  };
  const kwbase = { query: async (statements: readonly string[]) => statements.map(answerOf).join('') };
  return new ReadingSql({ kwbase, timeoutMs: () => 1_000 });
}

describe('an inventory', () => {
  it('has the privileges of public and those it does not know, and no user of the system', async () => {
    const sql = database({
      '[SHOW DATABASES]': 'database_name,engine_type\nshop,RELATIONAL\nsystem,RELATIONAL\n',
      'system.users': 'username,isRole\nadmin,true\nann,false\npublic,true\nroot,false\n',
      'system.role_options': 'username,option,value\nann,VIEWACTIVITY,NULL\n',
      'information_schema.tables': 'table_schema,table_name,table_type\npublic,orders,BASE TABLE\n',
      'information_schema.schema_privileges':
        'table_schema,grantee,privilege_type\ninformation_schema,public,SELECT\ninformation_schema,root,ALL\n',
      'information_schema.table_privileges':
        'table_schema,table_name,grantee,privilege_type\npublic,orders,public,SELECT\npublic,orders,ann,ZONECONFIG\npublic,orders,admin,ALL\n',
    });
    const { users, grants } = await takeInventory(sql, () => 1);
    expect(users).toEqual([{ name: 'ann', isRole: false, options: ['VIEWACTIVITY'] }]);
    const orders = { database: 'shop', schema: 'public', table: 'orders' };
    expect(grants).toEqual([
      { database: 'shop', grantee: 'public', privilege: 'SELECT' },
      { ...orders, grantee: 'public', privilege: 'SELECT' },
      { ...orders, grantee: 'ann', privilege: 'ZONECONFIG' },
    ]);
  });
});
