import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { labCgroup, members } from './cgroup.ts';
import { run } from './process.ts';

/** Everything on the machine that belongs to a lab, by kind and name; empty when it is wholly gone. */
export async function traces(id: string, directory: string): Promise<string[]> {
  const cgroup = await labCgroup(id);
  const namespaces = (await run(['ip', 'netns', 'list'])).stdout.split('\n').filter((line) => line.includes(id));
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.includes(id));
  return [
    ...namespaces.map((name) => `netns ${name}`),
    ...mounts.map((mount) => `mount ${mount}`),
    ...(existsSync(cgroup) ? [`cgroup ${cgroup}`] : []),
    ...(await members(cgroup)).map((pid) => `process ${pid}`),
    ...loopDevices(directory).map((device) => `loop device ${device}`),
    ...processesNaming(directory).map((pid) => `process ${pid}`),
    ...(existsSync(directory) ? [`directory ${directory}`] : []),
  ];
}

function loopDevices(directory: string): string[] {
  const backing = (device: string) => textOf(`/sys/block/${device}/loop/backing_file`);
  return readdirSync('/sys/block').filter((device) => backing(device).startsWith(directory));
}

/** A launcher has the lab's directory in its arguments; a process of a host has it in its mounts. */
function processesNaming(directory: string): string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
  return pids.filter((pid) => `${textOf(`/proc/${pid}/cmdline`)}${textOf(`/proc/${pid}/mounts`)}`.includes(directory));
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
