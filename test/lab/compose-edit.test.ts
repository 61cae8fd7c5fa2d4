/** The edit of a compose project, tried by a real docker-compose against the engine of a test host. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Compose, projectArguments, projectOf } from '../../packages/agent/src/docker/compose.ts';
import { editOf } from '../../packages/agent/src/docker/compose-edit.ts';
import { Engine } from '../../packages/agent/src/docker/engine.ts';
import { dockerHere, ImageShelf } from './container-deploy.ts';
import { createLab, type Lab, type LabHost, labHere } from './host.ts';
import { run } from './process.ts';

const NEW = 'kaiwudb:3.1.0';
const SERVICE = 'command: ["./kwbase", "start-single-node", "--insecure"]';

const IN_VARIABLE = `services:\n  kwdb:\n    image: kaiwudb:$${'{'}TAG:-2.0.0}\n    ${SERVICE}\n`;

let lab: Lab | undefined;
let shelf: ImageShelf;
let host: LabHost;
let socket: string;
let projects = 0;

describe.skipIf(!(await labHere()) || !dockerHere())('a compose project is edited', () => {
  beforeAll(async () => {
    shelf = await ImageShelf.create();
    lab = await createLab();
    host = await lab.addHost();
    await host.start();
    await host.exec(['systemctl', 'start', 'docker']);
    for (const version of ['3.0.0', '3.1.0']) await host.exec(['docker', 'load', '-i', await shelf.image(version)]);
    socket = `/proc/${host.initPid}/root/run/docker.sock`;
  });
  afterAll(async () => {
    await lab?.destroy();
    await shelf?.remove();
  });

  it('where the image can be changed for the service alone; nothing is written', async () => {
    const made = await project(
      `services:\n  kwdb:\n    image: kaiwudb:3.0.0 # it\n    ${SERVICE}\n  side: {image: kaiwudb:3.0.0}\n`,
    );
    const edit = await made.edit();
    expect(edit.text).toBe(made.text.replace('kaiwudb:3.0.0 #', `${NEW} #`));
    expect(edit.compatibility).toBe(false);
    expect(await readFile(made.file, 'utf8')).toBe(made.text);
    expect(await readdir(made.directory)).toEqual(['docker-compose.yml']);
  });

  it('in whatever mode it was made', async () => {
    const deploy = 'deploy: {resources: {limits: {memory: 200M}}}';
    const text = `version: "3.7"\nservices:\n  kwdb:\n    image: kaiwudb:3.0.0\n    ${deploy}\n    ${SERVICE}\n`;
    const made = await project(text, { options: ['--compatibility'] });
    expect((await made.edit()).text).toBe(made.text.replace('kaiwudb:3.0.0', NEW));
  });

  it('in the env file that compose was given', async () => {
    const environment = join(shelf.directory, 'elsewhere.env');
    await writeFile(environment, 'TAG=3.0.0\n');
    const made = await project(IN_VARIABLE, { options: ['--env-file', environment] });
    expect(await made.edit()).toMatchObject({ path: environment, text: 'TAG=3.1.0\n' });
  });

  it.each([
    [
      'another service has its image from this one',
      `services:\n  kwdb:\n    image: &image kaiwudb:3.0.0\n    ${SERVICE}\n  other:\n    image: *image\n`,
      /other would change too/,
    ],
    [
      'another service is made like this one',
      `services:\n  kwdb: &kwdb\n    image: kaiwudb:3.0.0\n    ${SERVICE}\n  other:\n    <<: *kwdb\n`,
      /other would change too/,
    ],
    [
      'another service extends this one',
      `version: "2.1"\nservices:\n  kwdb:\n    image: kaiwudb:3.0.0\n    ${SERVICE}\n  other:\n    extends: {service: kwdb}\n`,
      /other would change too/,
    ],
  ])('refused when %s', async (_why, text, message) => {
    const made = await project(text);
    await expect(made.edit()).rejects.toMatchObject({ code: 'COMPOSE_UNFIT', message: expect.stringMatching(message) });
    expect(await readFile(made.file, 'utf8')).toBe(text);
  });

  it('refused when the file was changed and never applied', async () => {
    const made = await project(`services:\n  kwdb:\n    image: kaiwudb:3.0.0\n    ${SERVICE}\n`);
    await writeFile(made.file, made.text.replace('--insecure', '--tlcp'));
    await expect(made.edit()).rejects.toMatchObject({ code: 'COMPOSE_UNFIT', message: expect.stringMatching(/up -d/) });
  });

  it('by a compose that speaks to the engine: files alone do not tell that', async () => {
    const made = await project(`services:\n  kwdb:\n    image: kaiwudb:3.0.0\n    ${SERVICE}\n`);
    await made.reach(socket);
    await expect(made.reach('/run/no-engine.sock')).rejects.toMatchObject({ code: 'COMPOSE_UNFIT' });
    const engine = new Engine({ socket, sudo: false });
    expect(await engine.suitsCompose1('kaiwudb:3.0.0')).toBe(true);
  });

  it('refused when a variable came from the shell that ran compose', async () => {
    const made = await project(IN_VARIABLE, { env: { TAG: '3.0.0' } });
    await expect(made.edit()).rejects.toMatchObject({ code: 'COMPOSE_UNFIT' });
  });
});

/** A project whose container was made (not started) on the host's engine, from files on this machine. */
async function project(
  text: string,
  { options = [], env = {} }: { options?: string[]; env?: Record<string, string> } = {},
) {
  projects += 1;
  const directory = join(shelf.directory, `project-${projects}`);
  const file = join(directory, 'docker-compose.yml');
  await mkdir(directory);
  await writeFile(file, text);
  const given = { PATH: '/usr/bin:/bin', DOCKER_HOST: `unix://${socket}`, ...env };
  const argv = [
    '/usr/bin/docker-compose',
    ...options,
    '--project-directory',
    directory,
    '-f',
    file,
    'up',
    '--no-start',
    'kwdb',
  ];
  await run(argv, { env: given });
  const engine = new Engine({ socket, sudo: false });
  const name = `project-${projects}`;
  const [found] = (await engine.containers()).filter(
    ({ Labels }) => Labels['com.docker.compose.project'] === name && Labels['com.docker.compose.service'] === 'kwdb',
  );
  const inspect = found && (await engine.container(found.Id));
  if (inspect === undefined) throw new Error(`compose made no container of ${name}`);
  const edit = async () => editOf(new Compose({ socket }), await projectOf(inspect), inspect, NEW);
  const reach = async (at: string) => {
    const compose = new Compose({ socket: at });
    const asked = await projectOf(inspect);
    await compose.reach(await compose.program(asked.version), projectArguments(asked, false), 'kwdb');
  };
  return { directory, file, text, edit, reach };
}
