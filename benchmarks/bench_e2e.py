"""Time a prompt to a PNG, cold (a fresh process to its first picture) and warm.

    python benchmarks/bench_e2e.py
    python benchmarks/bench_e2e.py --bundled

The model is a random one of Stable Diffusion 1.5's shape; the peers' networks take the place of ours in our pipeline.
With --bundled: the bundled model, 10 to 50 steps.
"""

import argparse
from typing import Any

import contenders
import harness
import report

PEERS = ("openvino", "diffusers")


def full_size(args: argparse.Namespace) -> dict[str, Any]:
    """Ours against the same pipeline on a peer's networks."""
    ckpt = contenders.random_checkpoint(args.cache)
    shared = {"ckpt": str(ckpt), "steps": args.steps, "size": args.size}
    racing = [harness.Contender("ldm", "pictures:ldm", shared)]
    for peer in args.peers:
        extra = {"cache": str(args.cache)} if peer == "openvino" else {}
        racing.append(harness.Contender(f"{peer}-bf16", f"pictures:{peer}", {**shared, **extra}))
    table = harness.compare(f"Prompt to PNG, {args.size} px, {args.steps} steps", racing, args)
    note = "Cold figures of peers hold our loading of the networks that they replace, and are not to be compared."
    return {**table, "notes": [note]}


def bundled(args: argparse.Namespace) -> dict[str, Any]:
    """The bundled model at its own size, by steps."""
    racing = [harness.Contender(f"{steps} steps", "pictures:ldm", {"ckpt": None, "steps": steps, "dtype": "auto"})
              for steps in range(10, 60, 10)]
    return harness.compare("Prompt to PNG, bundled model", racing, args)


def main() -> None:
    p = harness.parser(__doc__, "e2e-512", repeats=3)
    p.add_argument("--steps", type=int, default=20, help="sampling steps (default 20)")
    p.add_argument("--size", type=int, default=512, help="side of the picture in pixels (default 512)")
    p.add_argument("--peers", nargs="*", choices=PEERS, default=["openvino"], help="whose networks to race with ours "
                   "(default openvino)")
    p.add_argument("--bundled", action="store_true", help="the bundled model, 10 to 50 steps; writes e2e-bundled")
    args = p.parse_args()
    if args.bundled:
        report.write("e2e-bundled", [bundled(args)])
    else:
        report.write(args.name, [full_size(args)])


if __name__ == "__main__":
    main()
