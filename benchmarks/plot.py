"""Draw the measured times of results/*.json side by side, for the README.

    python benchmarks/plot.py docs/speed.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from report import RESULTS

PANELS = {"unet-512": "UNet step with guidance", "vae-512": "VAE decode", "e2e-512": "prompt to PNG, 20 steps",
          "unet-512-fp32": "UNet step, float32"}
OURS, PEERS = "#d9622b", "#9aa5b1"


def panel(ax: Any, title: str, rows: list[dict[str, Any]]) -> None:
    """One bar for each contender: the median; a thin line from the fastest to the slowest."""
    names, medians = [row["name"] for row in rows], [row["median_s"] for row in rows]
    spread = [[row["median_s"] - row["min_s"] for row in rows], [row["max_s"] - row["median_s"] for row in rows]]
    colours = [OURS if name.startswith("ldm") else PEERS for name in names]
    bars = ax.barh(names, medians, color=colours, xerr=spread, error_kw={"elinewidth": 1, "ecolor": "#444444"})
    ax.bar_label(bars, [f"{median:.2f} s" for median in medians], label_type="center", color="white", fontsize=8)
    ax.invert_yaxis()
    ax.set_title(title, fontsize=10, loc="left")
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="picture to write")
    args = p.parse_args()
    tables = {title: json.loads((RESULTS / f"{name}.json").read_text())["tables"][0] for name, title in PANELS.items()}
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for ax, (title, table) in zip(figure.subplots(2, 2).flat, tables.items(), strict=True):
        panel(ax, title, table["rows"])
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
