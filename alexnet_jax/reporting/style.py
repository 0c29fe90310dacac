"""The style sheet of a report: for phones, wide screens, dark mode and print."""

STYLE = """
:root {
  color-scheme: light;
  --paper: #fffefb; --ink: #1d1d1b; --faint: #66645e; --rule: #dedbd2; --shade: #f5f3ec;
  --blue: #26588a; --red: #b02828; --right: #e5a3b4; --other: #b7c9de;
  --c2: #2f8f4e; --c3: #d08700; --c4: #7d4bb0; --c5: #17909f; --c6: #7a5230; --c7: #d6539a;
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.5 Charter, 'Bitstream Charter', 'Iowan Old Style', 'Palatino Linotype', Georgia,
    'Liberation Serif', serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.9rem; line-height: 1.2; font-weight: 600; margin: 1rem 0 0.25rem; }
h2 { font-size: 1.3rem; line-height: 1.25; font-weight: 600; margin: 3rem 0 0.75rem;
  border-top: 1px solid var(--rule); padding-top: 1rem; }
p, dl, nav { max-width: 42rem; }
p { margin: 0.75rem 0; }
a { color: var(--blue); }
.subtitle { color: var(--faint); margin: 0; }
.note { border-left: 3px solid var(--red); padding-left: 0.75rem; }
nav ol { list-style: none; padding: 0; margin: 1.5rem 0 0; display: flex; flex-wrap: wrap;
  gap: 0.25rem 1.25rem; }
nav li { min-width: 0; }
figure { margin: 1.25rem 0; }
figcaption { color: var(--faint); font-size: 0.88rem; line-height: 1.4; text-align: left;
  max-width: 42rem; }
figcaption { margin-top: 0.5rem; }
.narrow svg { max-width: 34rem; }
img, svg { display: block; max-width: 100%; height: auto; }
code, pre { font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
  font-size: 0.82em; overflow-wrap: anywhere; }
code span { display: inline-block; max-width: 100%; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; font-size: 0.95rem; }
dt { color: var(--faint); }
dd { margin: 0; min-width: 0; }

.claim { font-weight: normal; font-size: 0.85rem; color: var(--faint); white-space: normal;
  min-width: 9rem; max-width: 17rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: collapse; font-size: 0.95rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 2px solid var(--ink); }
th, td { padding: 0.3rem 0.75rem; text-align: right; white-space: nowrap; }
th:first-child, .text { text-align: left; }
tbody th { font-weight: 400; }
td.text { white-space: normal; min-width: 7rem; }
th.text { white-space: normal; overflow-wrap: anywhere; }
th:first-child { padding-left: 0.25rem; }
.big { font-size: 1.15rem; font-weight: 600; }
.faint { color: var(--faint); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 0.5rem 2rem; align-items: start; }
.pair > * { min-width: 0; }

svg text { fill: var(--ink); font-size: 13px; font-family: inherit; }
svg path { fill: none; stroke-width: 1.75; stroke-linejoin: round; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .level { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 2 3; }
.curve0 path { stroke: var(--blue); } .curve0 circle { fill: var(--blue); }
.curve1 path { stroke: var(--red); } .curve1 circle { fill: var(--red); }
.curve2 path { stroke: var(--c2); } .curve2 circle { fill: var(--c2); }
.curve3 path { stroke: var(--c3); } .curve3 circle { fill: var(--c3); }
.curve4 path { stroke: var(--c4); } .curve4 circle { fill: var(--c4); }
.curve5 path { stroke: var(--c5); } .curve5 circle { fill: var(--c5); }
.curve6 path { stroke: var(--c6); } .curve6 circle { fill: var(--c6); }
.curve7 path { stroke: var(--c7); } .curve7 circle { fill: var(--c7); }
.dashed path { stroke-dasharray: 7 4; }
.fine path { stroke-dasharray: 2 3; }
svg.key { display: inline-block; width: 1.75rem; height: 0.75rem; vertical-align: baseline; }

.filters img { width: 100%; max-width: 26rem; image-rendering: pixelated; background: #fff; }
.examples { display: grid; gap: 1.5rem 1.25rem; padding: 0; margin: 0; list-style: none;
  max-width: 46rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.examples > li { min-width: 0; }
.examples img { width: 100%; max-width: 10rem; margin: 0 auto; }
.examples strong { display: block; text-align: center; font-weight: 600; margin: 0.3rem 0;
  line-height: 1.2; overflow-wrap: anywhere; }
.bars { list-style: none; margin: 0; padding: 0; font-size: 0.8rem; line-height: 1.35; }
.bars li { position: relative; display: flex; justify-content: space-between; gap: 0.5rem;
  margin-top: 2px; padding: 1px 5px; }
.bars li::before { content: ''; position: absolute; inset: 0 auto 0 0; width: var(--p);
  min-width: 2px; background: var(--other); }
.bars li.true::before { background: var(--right); }
.bars span { position: relative; overflow-wrap: anywhere; }
.bars span + span { flex: none; font-variant-numeric: tabular-nums; }
.neighbours { display: grid; gap: 0.6rem 0.4rem;
  grid-template-columns: 1fr 0.25rem repeat(var(--others), 1fr);
  max-width: 46rem; font-size: 0.75rem; line-height: 1.2; text-align: center; }
.neighbours > div { min-width: 0; overflow-wrap: anywhere; }
.neighbours .query { grid-column: 1; }
.neighbours .query + div { grid-column: 3; }
.neighbours img { width: 100%; margin-bottom: 0.15rem; }
.wrong { color: var(--red); font-weight: 600; }

.confusion { font-size: 0.85rem; }
.confusion th, .confusion td { padding: 0.25rem 0.3rem; min-width: 2.1rem; text-align: center; }
.confusion tbody th, .confusion thead th:first-child { text-align: right; }
.confusion thead .long { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-height: 12rem; white-space: normal; margin: auto; }
.confusion td { background: color-mix(in srgb, var(--red) var(--c, 0%), transparent); }
.confusion td.same { background: color-mix(in srgb, var(--blue) var(--c, 0%), transparent); }
.matrix img { width: 100%; max-width: 40rem; image-rendering: pixelated; background: #fff;
  border: 1px solid var(--rule); }
details summary { cursor: pointer; color: var(--blue); }
pre { white-space: pre-wrap; background: var(--shade); padding: 0.75rem 1rem; line-height: 1.45; }

@media screen and (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --paper: #171816; --ink: #e8e6df; --faint: #a3a097; --rule: #3a3b37; --shade: #20211e;
    --blue: #86b4e3; --red: #ee8580; --right: #8c3f55; --other: #35506e;
    --c2: #7fca94; --c3: #f0b450; --c4: #bd9be6; --c5: #6fd3df; --c6: #c9a27e; --c7: #f29ac4;
  }
}
@media (max-width: 30rem) {
  body { font-size: 16px; }
  th, td { padding: 0.3rem 0.45rem; }
  dl { display: block; }
  dd { margin-bottom: 0.5rem; }
}
@media print {
  @page { margin: 18mm 16mm; }
  body { font-size: 10.5pt; background: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  a { color: inherit; text-decoration: none; }
  h2 { break-after: avoid; margin-top: 1.5rem; }
  figure, svg, img, tr, .examples > li, .neighbours > div { break-inside: avoid; }
  figure.grid { break-inside: auto; }
  .scroll { overflow: visible; }
  .pair { grid-template-columns: 1fr 1fr; }
  .examples { grid-template-columns: repeat(4, 1fr); max-width: none; }
  details summary { display: none; }
  details::details-content { content-visibility: visible; display: block; block-size: auto; }
  pre { background: none; padding: 0; font-size: 7.5pt; columns: 2; }
}
"""
