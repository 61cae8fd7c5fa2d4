import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { csvRecords, parseCsv } from '../src/host/csv.ts';
import { nodeRow, ownId } from '../src/host/kwbase.ts';
import { parseUnit } from '../src/host/systemd.ts';

describe('csv', () => {
  test('NULL is null, "NULL" and "" are texts, quotes hold anything', () => {
    expect(parseCsv('a,"",NULL,"NULL"\r\n"x ""y"", z\n2",,b,\n')).toEqual([
      ['a', '', null, 'NULL'],
      ['x "y", z\n2', '', 'b', ''],
    ]);
  });

  test('what is written is read', () => {
    const field = fc.oneof(fc.constant(null), fc.string({ unit: fc.constantFrom('a', ',', '"', '\n', '\r', ' ') }));
    const quoted = (value: string | null) => (value === null ? 'NULL' : `"${value.replaceAll('"', '""')}"`);
    fc.assert(
      fc.property(fc.array(fc.array(field, { minLength: 1, maxLength: 4 }), { maxLength: 5 }), (rows) => {
        expect(parseCsv(rows.map((row) => `${row.map(quoted).join(',')}\n`).join(''))).toEqual(rows);
      }),
    );
  });
});

const STATUS = `id,address,sql_address,build,started_at,updated_at,locality,start_mode,is_available,is_live,ranges,is_decommissioning,is_draining
1,10.0.0.1:26257,10.0.0.1:26257,V3.0.0,2026-11-23 06:42:19.123456+00:00,2026-11-23 08:42:23.5+02:00,"",start,true,true,5,false,false
2,NULL,NULL,V3.0.0,NULL,NULL,"",start,false,false,NULL,false,false
3,10.0.0.3:26257,10.0.0.3:26257,private-build,2026-11-23 06:42:19+00:00,NULL,"a=b,c=d",start,true,true,5,true,true
`;

describe('node status', () => {
  const rows = csvRecords(STATUS).map(nodeRow);

  test('every column as the report has it', () => {
    expect(rows[0]).toEqual({
      kwdbId: 1,
      address: '10.0.0.1:26257',
      sqlAddress: '10.0.0.1:26257',
      build: 'V3.0.0',
      startedAtMs: Date.UTC(2026, 10, 23, 6, 42, 19, 123),
      updatedAtMs: Date.UTC(2026, 10, 23, 6, 42, 23, 500),
      startMode: 'start',
      isAvailable: true,
      isLive: true,
      isDecommissioning: false,
      isDraining: false,
    });
  });

  test('NULL is unknown, and so is a build that is no version', () => {
    expect(rows[1]).not.toHaveProperty('address');
    expect(rows[1]).not.toHaveProperty('startedAtMs');
    expect(rows[2]).not.toHaveProperty('build');
    expect(rows[2]).toMatchObject({ isDecommissioning: true, isDraining: true });
  });

  test('columns an older version lacks are false or unknown', () => {
    expect(csvRecords('id,address,is_live\n4,NULL,true\n').map(nodeRow)).toEqual([
      { kwdbId: 4, isAvailable: false, isLive: true, isDecommissioning: false, isDraining: false },
    ]);
  });

  test('the node itself is found by its address: the living row, then the newest', () => {
    const at = (kwdbId: number, isLive: boolean) => ({ ...nodeRow({ id: `${kwdbId}`, address: 'a:1' }), isLive });
    expect(ownId([at(1, false), at(5, true), at(7, false)], 'a:1')).toBe(5);
    expect(ownId([at(1, false), at(7, false)], 'a:1')).toBe(7);
    expect(ownId([at(1, true), at(2, true)], 'b:1')).toBeUndefined();
    expect(ownId([at(1, true)], 'b:1')).toBe(1);
  });
});

describe('systemctl show', () => {
  test('a running unit', () => {
    const text =
      'MainPID=42\nExecMainStartTimestamp=Mon 2026-11-23 06:42:19 UTC\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled';
    expect(parseUnit(text)).toEqual({
      exists: true,
      active: 'active',
      enabled: true,
      mainPid: 42,
      startedAtMs: Date.UTC(2026, 10, 23, 6, 42, 19),
    });
  });

  test('a unit that is not there, and one that is reloading', () => {
    expect(parseUnit('MainPID=0\nLoadState=not-found\nActiveState=inactive\nUnitFileState=')).toMatchObject({
      exists: false,
      active: 'inactive',
      mainPid: null,
      startedAtMs: null,
    });
    expect(parseUnit('MainPID=9\nLoadState=loaded\nActiveState=reloading')).toMatchObject({ active: 'activating' });
  });
});
