"""The style sheet of a report: light and dark as the reader's system is, narrow and wide, on paper too.

Blue and orange stay apart for every common colour blindness.
"""

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f6f8; --ink: #1c2127; --faint: #5b6470; --rule: #d9dde2;
  --good: #1e6ea0; --defect: #d75f14; --area: #1e6ea026; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --panel: #1d2127; --ink: #e6e9ec; --faint: #a0a9b4; --rule: #373e47;
  --good: #63b3e4; --defect: #f79550; --area: #63b3e433; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 small { font-size: .9rem; font-weight: 400; color: var(--faint); margin-left: 6px; }
h3 { font-size: 1rem; margin: 24px 0 10px; }
section { margin-top: 44px; }
section.class { border-top: 1px solid var(--rule); padding-top: 28px; }
a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: 3px; }
.kicker { color: var(--faint); margin: 0 0 2px; font-size: .87rem; letter-spacing: .06em; text-transform: uppercase; }
.sub, .note { color: var(--faint); margin: 6px 0 0; }
.note { font-size: .87rem; max-width: 80ch; margin-top: 10px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 24px; }
.card { background: var(--panel); border-radius: 8px; padding: 14px 16px; }
.card span, .card small { display: block; color: var(--faint); font-size: .85rem; }
.card strong { display: block; font-size: 1.75rem; line-height: 1.3; font-weight: 650; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--paper);
  max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
thead th { color: var(--faint); font-size: .85rem; border-bottom: 2px solid var(--rule); }
tfoot th, tfoot td { border-bottom: 0; border-top: 2px solid var(--rule); font-weight: 650; }
td.low { text-decoration: underline; text-decoration-thickness: 2px; text-decoration-color: var(--defect); text-underline-offset: 4px; }
figure { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 20px 28px; margin-bottom: 16px; }
.chart { max-width: 440px; display: grid; grid-template-rows: subgrid; grid-row: span 2; row-gap: 4px; align-content: start; }
.chart figcaption { font-size: .87rem; }
.chart b { display: block; font-size: .95rem; }
.legend { color: var(--faint); }
.key { display: inline-block; white-space: nowrap; margin-right: 14px; }
.key i { display: inline-block; margin-right: 6px; vertical-align: middle; }
.swatch { width: 12px; height: 12px; border-radius: 2px; }
i.good { background: var(--good); } i.defect { background: var(--defect); } i.area { background: var(--area); border: 1px solid var(--good); }
.line { width: 20px; border-top: 2px solid var(--good); }
i.line.pixel { border-top: 2px dashed var(--defect); }
.ring { width: 11px; height: 11px; border-radius: 50%; border: 2px solid var(--ink); }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11.5px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; fill: var(--faint); }
svg .note, svg .label { fill: var(--ink); }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--faint); }
svg .chance { stroke: var(--faint); stroke-dasharray: 2 4; }
svg .mark { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg .bar.good { fill: var(--good); } svg .bar.defect { fill: var(--defect); }
svg .curve { fill: none; stroke: var(--good); stroke-width: 2.2; stroke-linejoin: round; }
svg .curve.pixel { stroke: var(--defect); stroke-dasharray: 6 4; }
svg .area { fill: var(--area); } svg .point { fill: var(--paper); stroke: var(--ink); stroke-width: 2; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 18px 20px; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; }
.tiles img, .empty { width: 100%; height: auto; border-radius: 3px; background: var(--panel); }
.empty { display: grid; place-items: center; color: var(--faint); font-size: .85rem; }
.case figcaption { font-size: .87rem; margin-top: 6px; }
.case .name { display: block; color: var(--faint); overflow-wrap: anywhere; }
.chip { border: 1px solid var(--faint); border-radius: 4px; padding: 0 6px; margin-right: 2px; white-space: nowrap; }
.chip.wrong { border-color: var(--defect); background: var(--defect); color: var(--paper); font-weight: 650; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 20px; margin: 0; max-width: 90ch; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) {
  main { padding: 20px 14px 40px; } h1 { font-size: 1.4rem; }
  .cards { grid-template-columns: repeat(2, 1fr); } .card strong { font-size: 1.4rem; }
  th, td { padding: 6px 9px; } th:first-child { max-width: 8.5rem; } table { font-size: .87rem; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --panel: #fff; --ink: #000; --faint: #444; --rule: #bbb; --good: #1e6ea0; --defect: #d75f14; --area: #1e6ea026; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 11px; } main { max-width: none; padding: 0; } .card { border: 1px solid var(--rule); padding: 8px 10px; } .card strong { font-size: 1.2rem; }
  .cards { grid-template-columns: repeat(5, 1fr); } .charts, .cases { grid-template-columns: repeat(3, 1fr); gap: 12px; }
  h2, h3 { break-after: avoid; } .chart, .case, tr, .card { break-inside: avoid; } th, td { padding: 3px 7px; } a { text-decoration: none; } }
"""
