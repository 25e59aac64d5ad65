"""One picture of the throughput figure: a bar per side, cases below each other, each scaled to its own best."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measure import Figure

WIDTH, LEFT, BAR, GAP, HEAD = 760, 230, 16, 18, 40
COLOURS = ("#1f6feb", "#8b949e", "#d29922", "#a371f7", "#3fb950")


def save(figure: Figure, path: Path) -> None:
    """Write the picture as SVG. Rows are those of :mod:`bench.storage.throughput`: case, side, IOPS, MB/s, …."""
    cases: dict[str, list[tuple[str, float, float]]] = {}
    for row in figure.rows:
        cases.setdefault(str(row[0]), []).append((str(row[1]), float(str(row[2])), float(str(row[7]))))
    sides = list(dict.fromkeys(side for bars in cases.values() for side, _, _ in bars))
    parts, top = [], HEAD + 10
    for case, bars in cases.items():
        best = max(value for _, value, _ in bars)
        parts.append(f'<text x="10" y="{top + 12}" font-weight="bold">{escape(case)}</text>')
        for side, value, cpu in bars:
            length = value / best * (WIDTH - LEFT - 220)
            colour = COLOURS[sides.index(side) % len(COLOURS)]
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{length:.0f}" height="{BAR - 2}" fill="{colour}"/>')
            text = f"{value:,.0f} a second, server CPU {cpu:.2f} s/10k"
            parts.append(f'<text x="{LEFT + length + 6:.0f}" y="{top + 12}">{escape(text)}</text>')
            top += BAR
        top += GAP
    legend = []
    for place, side in enumerate(sides):
        x = 10 + place * 180
        legend.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{COLOURS[place % len(COLOURS)]}"/>')
        legend.append(f'<text x="{x + 18}" y="20">{escape(side)}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(legend + parts)}</svg>\n'
    )
