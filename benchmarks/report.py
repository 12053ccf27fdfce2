"""Tables of figures -> benchmarks/results/NAME.json and NAME.md, with the hardware, the versions and the command."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
COLUMNS = {                                             # key of a row: heading, format
    "name": ("contender", "{}"),
    "median_s": ("median, s", "{:.4g}"),
    "min_s": ("min, s", "{:.4g}"),
    "max_s": ("max, s", "{:.4g}"),
    "ratio": ("x first", "{:.2f}"),
    "cold_s": ("cold, s", "{:.1f}"),
    "built_mib": ("memory once built, MiB", "{:.0f}"),
    "peak_mib": ("peak memory, MiB", "{:.0f}"),
    "resident_mib": ("memory held, MiB", "{:.0f}"),
    "samples_per_s": ("samples per second", "{:.3g}"),
    "parameters": ("parameters", "{:,}"),
    "gflop_per_sample": ("GFLOP per sample", "{:.4g}"),
    "gflops": ("nominal GFLOP/s", "{:.0f}"),
    "of_peak": ("of peak", "{:.0%}"),
    "psnr_median_db": ("PSNR median, dB", "{:.1f}"),
    "psnr_min_db": ("PSNR min, dB", "{:.1f}"),
    "worst": ("largest difference, of the range", "{:.1e}"),
    "jobs": ("jobs", "{}"),
    "lost": ("lost", "{}"),
    "mixed_up": ("mixed up", "{}"),
    "wait_median_s": ("median wait, s", "{:.3g}"),
    "wait_max_s": ("longest wait, s", "{:.3g}"),
    "resident_10_mib": ("memory after 10 %, MiB", "{:.0f}"),
    "resident_50_mib": ("after 50 %, MiB", "{:.0f}"),
    "resident_100_mib": ("at the end, MiB", "{:.0f}"),
    "how": ("how", "{}"),
}


def without_folders(text: str) -> str:
    """Absolute paths cut down to their last part: results say nothing of the machine's folders."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\":]+/)*(?=[^\s/'\":])", "", text)


def output(*command: str) -> str:
    """What a command prints; "" where it is missing or fails."""
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def circumstances() -> dict[str, Any]:
    """Where and how the figures arose."""
    cpu = dict(re.findall(r"^(Model name|Flags):\s*(.*)$", output("lscpu"), re.MULTILINE))
    flags = cpu.get("Flags", "").split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu.get("Model name", "unknown"), "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in flags], "memory_gib": round(memory / 2**30, 1),
        "versions": {name: installed(name) for name in ("torch", "diffusers", "openvino")},
        "commit": output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip() or "unknown",
        "command": without_folders(shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])),
    }


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the columns that they have, in the order of COLUMNS."""
    keys = [key for key in COLUMNS if any(key in row for row in rows)]
    lines = [[COLUMNS[key][0] for key in keys], ["---" if key == "name" else "---:" for key in keys]]
    lines += [[COLUMNS[key][1].format(row[key]) if key in row else "" for key in keys] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(table: dict[str, Any]) -> str:
    """A table under its title, then what it rests on."""
    notes = []
    if table.get("nominal_gflop"):
        notes.append(f"Nominal work of a call: {table['nominal_gflop']:.1f} GFLOP, that of the plain network, "
                     "whatever a contender saves.")
    if table.get("peak_gflops"):
        notes.append(f"Peak, a bfloat16 matrix product of 4096^3 in the same run: {table['peak_gflops']:.0f} GFLOP/s.")
    notes += [f"Left out: {name} ({reason})." for name, reason in table.get("left_out", {}).items()]
    notes += table.get("notes", [])
    return "\n\n".join([f"## {table['title']}", markdown_table(table["rows"]), *notes])


def markdown(name: str, tables: Sequence[dict[str, Any]], where: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items() if number)
    machine = (f"{where['cores']} cores of {where['cpu']} ({', '.join(where['flags'])}), {where['memory_gib']} GiB; "
               f"{versions}; commit {where['commit']}.")
    return "\n\n".join([f"# {name}", *map(section, tables), f"Measured on {machine}", f"    {where['command']}"]) + "\n"


def write(name: str, tables: Sequence[dict[str, Any]], folder: Path = RESULTS) -> None:
    """Print the tables and write them as JSON and Markdown."""
    where = circumstances()
    text = without_folders(markdown(name, tables, where))
    data = without_folders(json.dumps({**where, "tables": tables}, indent=1))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(data + "\n")
    print(text)
