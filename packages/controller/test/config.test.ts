import { describe, expect, it } from 'vitest';
import { controllerConfig } from '../src/config.ts';

describe('the configuration', () => {
  it('has a default for everything', () => {
    expect(controllerConfig({ data_dir: '/tmp/x' })).toMatchObject({
      dataDir: '/tmp/x',
      rest: { host: '127.0.0.1', port: 7080 },
      grpc: { host: '127.0.0.1', port: 7090, insecure: false },
      heartbeatMs: 5_000,
    });
  });

  it.each([
    [{ rest: { port: 70_000 } }, 'rest.port'],
    [{ rest: { prot: 1 } }, 'rest.prot'],
    [{ heartbeat_ms: 'often' }, 'heartbeat_ms'],
    [{ grpc: { host: '0.0.0.0', insecure: true } }, 'grpc.insecure'],
    [{ rest: { host: '10.0.0.1' } }, 'rest.plaintext'],
  ])('refuses %j and names %s', (settings, field) => {
    expect(() => controllerConfig(settings)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining(field) }),
    );
  });
});
