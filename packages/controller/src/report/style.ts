/** How a report looks, on a screen and on paper. */
export const STYLE = `
:root { --ink: #1c2733; --soft: #5b6b7b; --line: #dfe5ea; --good: #1f7a4d; --warn: #9a6200; --bad: #b3261e; --calm: #41607f; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 2rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "PingFang SC", "Microsoft YaHei", sans-serif; }
.kicker { margin: 0; color: var(--soft); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: .1rem 0 .4rem; font-size: 1.9rem; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
.lead { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
h2 { margin: 2.4rem 0 .7rem; font-size: 1.15rem; font-weight: 650; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
.pill { display: inline-block; padding: .1rem .7rem; border-radius: 1rem; color: #fff; font-size: .9rem; font-weight: 600; margin-right: .4rem; }
.pill.good { background: var(--good); } .pill.warn { background: var(--warn); } .pill.bad { background: var(--bad); } .pill.calm { background: var(--calm); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem 2rem; margin: 1.6rem 0 0; }
.facts dt { color: var(--soft); font-size: .82rem; } .facts dd { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: .82rem; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
td time { white-space: nowrap; color: var(--soft); }
table.history { font-size: .82rem; }
small { color: var(--soft); font-size: .82rem; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .82em; }
code { overflow-wrap: anywhere; } pre { white-space: pre-wrap; margin: .3rem 0 0; padding: .5rem .7rem; background: #f5f7f9; border-radius: 4px; }
.mark { font-weight: 550; white-space: nowrap; } .tight { white-space: nowrap; } .mark.good { color: var(--good); } .mark.warn { color: var(--warn); } .mark.bad, strong.bad { color: var(--bad); } .mark.calm { color: var(--calm); }
.none, .note { color: var(--soft); font-size: .9rem; margin: .6rem 0; } ul.note { padding-left: 1.1rem; }
figure { margin: 0 0 1.2rem; } svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--soft); } svg .name { text-anchor: end; fill: var(--ink); } svg .time { text-anchor: middle; }
svg .row { stroke: var(--line); } svg .tick { stroke: var(--line); stroke-dasharray: 2 3; }
.fetch { fill: #c3ccd4; background: #c3ccd4; } .look { fill: #8fb3d9; background: #8fb3d9; } .away { fill: #e08a3c; background: #e08a3c; }
.failed { fill: var(--bad); background: var(--bad); } .held { fill: #fbeec3; background: #fbeec3; }
figcaption { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; color: var(--soft); font-size: .82rem; margin-top: .4rem; }
figcaption i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem; vertical-align: -1px; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .6rem; color: var(--soft); font-size: .82rem; }
footer p { margin: .3rem 0; overflow-wrap: anywhere; }
@media print {
  @page { margin: 15mm 12mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; } tr, figure, .facts div { break-inside: avoid; } thead { display: table-header-group; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
`;
