/**
 * Whether an agent's certificate is to be followed by another: half of its time is over. Both sides ask the same.
 * `validFrom`, `validTo`: as OpenSSL writes dates.
 */
export const isRenewable = (validFrom: string, validTo: string, nowMs: number): boolean =>
  nowMs - Date.parse(validFrom) >= Date.parse(validTo) - nowMs;
