"""Time a decode of Stable Diffusion's VAE: ours, diffusers' and OpenVINO's.

    python benchmarks/bench_vae.py
    python benchmarks/bench_vae.py --size 1024 --contenders ldm --name vae-1024
"""

import contenders
import harness
import report


def main() -> None:
    p = harness.parser(__doc__, "vae-512")
    contenders.add_contenders(p)
    p.add_argument("--size", type=int, default=512, help="side of the picture in pixels (default 512)")
    args = p.parse_args()
    report.write(args.name, [contenders.compare_networks(args.contenders, "vae", args.size, 1, args)])


if __name__ == "__main__":
    main()
