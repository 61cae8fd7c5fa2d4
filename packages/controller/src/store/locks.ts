/** The advisory locks of a controller's database, each by a number of its own: any constant, and no two alike. */
export const LOCKS = {
  /** One controller migrates at a time. */
  migrate: 7_090_001,
  /** One writer at a time, until its transaction ends: the chain has no branches. */
  audit: 7_090_002,
  /** Only one controller looks at the fleet's health at a time. */
  health: 7_090_003,
  /** One controller keeps house at a time. */
  housekeeping: 7_090_004,
  /** One publisher of trust at a time, until its transaction ends. */
  trust: 7_090_005,
  /** One at a time reserves room for transfers, of all controllers. */
  transferRoom: 7_090_006,
  /** One controller to a data directory, for as long as it owns the embedded database there. */
  owner: 7_090_708,
} as const;
