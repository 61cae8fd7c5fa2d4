import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { cleanOutput, judgeOutput, OutputCleaner } from '../src/deploy-output.ts';

const PAD = ' '.repeat(120);
const bar = (step: string, percent: number) =>
  `${step.padEnd(25)}: [${'#'.repeat(percent / 2).padEnd(50)}] ${percent}%\r`;
const failing = (text: string) =>
  `${bar('install check', 10)}${PAD}\r\x1b[31m [ERROR] 2026-11-23 06:42:19 ${text} \x1b[0m\n`;

describe('every message of deploy.sh has a code', () => {
  test.each([
    ['KaiwuDB does not exist. Please install KaiwuDB first.', 'DEPLOY_NOT_INSTALLED'],
    ['Package server does not exist.', 'DEPLOY_PACKAGE_INCOMPLETE'],
    ['Package libcommon does not exist.', 'DEPLOY_PACKAGE_INCOMPLETE'],
    ['/tmp/x/packages: No such directory.', 'DEPLOY_PACKAGE_INCOMPLETE'],
    ['Current use bare, but the package is container.', 'DEPLOY_WRONG_METHOD'],
    [
      'UPGRADE ERROR:The requested upgrade version is older than the current installed version.(current:3.1.0 new_version:3.0.0)',
      'DEPLOY_VERSION_OLDER',
    ],
    ['UPGRADE ERROR:Official version can not upgrade to beta1.', 'DEPLOY_VERSION_REFUSED'],
    ['UPGRADE ERROR:The upgrade conditions are not met.( --> )', 'DEPLOY_VERSION_REFUSED'],
    [
      'WARNING:This version upgrade is not supported, and if you continue to upgrade, ...',
      'DEPLOY_VERSION_UNSUPPORTED',
    ],
    ['Current local node is not support online upgrade! Please stop KaiwuDB then try again.', 'DEPLOY_STILL_RUNNING'],
    ['KaiwuDB upgrade failed: dpkg: error processing package kaiwudb-server (--install):.', 'INSTALL_FAILED'],
    ['KaiwuDB change status failed: Error: not all nodes are live.', 'DEPLOY_MARK_FAILED'],
    ["Can not use command: 'sudo bash'.", 'DEPLOY_PASSWORD'],
    ['Incorrect password.', 'DEPLOY_PASSWORD'],
    ['Recover KaiwuDB failed: Restart KaiwuDB failed. For more information, ...', 'START_FAILED'],
    ['Pipe create failed: dpkg: error processing archive ./server.deb (--install).', 'INSTALL_FAILED'],
    ['Pipe create failed: cannot copy: failed to write (No space left on device).', 'DISK_FULL'],
  ])('%s', (said, code) => {
    expect(judgeOutput(failing(said), 1)).toMatchObject({ status: 'failed', code });
  });
});

test('the misleading prefix goes, the cause stays, and the telling line comes first', () => {
  const raw = failing(
    'Pipe create failed: Selecting previously unselected package kaiwudb-server.\nUnpacking ...\ndpkg: error processing package kaiwudb-server (--install):\n exit status 1',
  );
  expect(judgeOutput(raw, 1)).toMatchObject({
    message: 'deploy.sh: dpkg: error processing package kaiwudb-server (--install):',
    words: expect.stringMatching(/^Selecting[\s\S]*exit status 1$/),
  });
});

test.each([
  '\x1b[1;32m[UPGRADE COMPLETED]:\x1b[0mLocal node upgrade successfully.\n',
  'UPGRADE COMPLETED: KaiwuDB has been upgraded successfully! \n',
])('success is read in both its forms: %j', (line) => {
  expect(judgeOutput(`${bar('upgrade', 70)}${PAD}\r${line}`, 0)).toEqual({ status: 'completed' });
});

test('an error in the middle counts, whatever comes last and whatever the exit status', () => {
  const raw = `${failing('Current use bare, but the package is container.')}${bar('verify install type', 30)}\n`;
  expect(judgeOutput(raw, 1)).toMatchObject({ code: 'DEPLOY_WRONG_METHOD' });
  expect(judgeOutput(raw, 0)).toMatchObject({ status: 'failed' });
});

test('an end without a word is not taken for success', () => {
  expect(judgeOutput('', 0)).toEqual({ status: 'unclear' });
  expect(judgeOutput('', 3)).toMatchObject({ code: 'INSTALL_FAILED', message: 'deploy.sh ended with exit status 3' });
});

test('a person sees what a terminal would show', () => {
  expect(cleanOutput('abcdef\rxyz\n')).toBe('xyzdef');
  expect(cleanOutput(`${bar('upgrade', 70)}${PAD}\rdone\n`)).toBe('done');
  expect(cleanOutput('a\x07b\x1b]0;title\x07c\n\n \n')).toBe('abc');
});

test('output cleaned in any pieces is the same output', () => {
  const text = fc.array(fc.constantFrom('a', 'ü', '\r', '\n', '\x1b[31m', '\x1b[0m', ' ', '#'), { maxLength: 60 });
  fc.assert(
    fc.property(text, fc.integer({ min: 1, max: 7 }), (characters, size) => {
      const raw = Buffer.from(characters.join(''));
      const cleaner = new OutputCleaner();
      const pieces = [];
      for (let at = 0; at < raw.length; at += size) pieces.push(...cleaner.take(raw.subarray(at, at + size)));
      pieces.push(...cleaner.take(new Uint8Array(), true));
      const whole = new OutputCleaner();
      expect(pieces).toEqual([...whole.take(raw), ...whole.take(new Uint8Array(), true)]);
      expect(
        pieces
          .map((piece) => piece.text)
          .join('')
          .trimEnd(),
      ).toBe(cleanOutput(raw.toString()).trimEnd());
    }),
  );
});
