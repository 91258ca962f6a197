"""The page's style sheet: light and dark by what the reader has set, one column on a telephone, more on a screen."""

from __future__ import annotations

__all__ = ["SHEET"]

SHEET = """
:root { color-scheme: light dark; --ink: light-dark(#1b1b1f, #e8e8ec); --dim: light-dark(#5a5a66, #a3a3ad);
  --line: light-dark(#dcdce2, #3a3a42); --page: light-dark(#ffffff, #16161a); --card: light-dark(#f6f6f8, #1f1f25);
  --good: light-dark(#00598a, #56b4e9); --bad: light-dark(#a84700, #f0913f); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 100rem; padding: 1rem clamp(.75rem, 3vw, 2.5rem) 3rem; color: var(--ink);
  background: var(--page); font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .3rem 0 .6rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } p { margin: .4rem 0; max-width: 75ch; } a { color: var(--good); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; border-bottom: 1px solid var(--line); padding-bottom: .5rem; }
.note { color: var(--dim); font-size: .875rem; }
.badges { display: flex; flex-wrap: wrap; gap: .4rem; margin: .5rem 0; }
.badge { border: 1.5px solid currentColor; border-radius: 1rem; padding: .05rem .7rem; font-size: .875rem;
  font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .dim { color: var(--dim); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem 2rem;
  align-items: start; }
.columns > *, figure { min-width: 0; }
figure { margin: .5rem 0; overflow-x: auto; }
svg.picture { display: block; width: 100%; height: auto; min-width: 21rem; }
.picture * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; } td.number, th.number { text-align: right; white-space: nowrap; }
td.wide { min-width: 16rem; overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--dim); } tr[hidden] { display: none !important; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--good); }
th[aria-sort]::after { content: " ↑"; } th[aria-sort="descending"]::after { content: " ↓"; }
input[type="search"] { font: inherit; font-size: .875rem; padding: .15rem .5rem; margin: .3rem 0; color: inherit;
  background: var(--card); border: 1px solid var(--line); border-radius: .3rem; width: min(20rem, 100%); }
details { margin: .5rem 0; } summary { cursor: pointer; }
pre { background: var(--card); padding: .7rem; overflow-x: auto; font-size: .8125rem; white-space: pre-wrap; }
.devinterp-tokens { background: var(--card); padding: .5rem .8rem; border-radius: .4rem; }
@media (max-width: 40rem) {
  .stack thead { display: none; } .stack, .stack tbody, .stack tr { display: block; }
  .stack tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
  .stack td, .stack td.number { display: block; border: 0; padding: 0; text-align: left; white-space: normal;
    min-width: 0; }
  .stack td:empty { display: none; } .stack td::before { content: attr(data-label) ": "; color: var(--dim); }
}
@media print { details > * { display: block; } nav { display: none; } }
"""
