"""Time a step of Stable Diffusion 1.5's UNet with guidance: ours, diffusers' and OpenVINO's.

    python benchmarks/bench_unet.py
    python benchmarks/bench_unet.py --contenders ldm-fp32 diffusers-fp32 openvino-fp32 --name unet-512-fp32
    python benchmarks/bench_unet.py --growth
"""

import contenders
import harness
import report

GROWTH = [(256, 1), (512, 1), (768, 1), (1024, 1), (512, 2), (512, 4)]      # size in pixels, batch


def main() -> None:
    p = harness.parser(__doc__, "unet-512")
    contenders.add_contenders(p)
    p.add_argument("--size", type=int, default=512, help="side of the picture in pixels (default 512)")
    p.add_argument("--batch", type=int, default=1, help="pictures at a time; guidance doubles it (default 1)")
    p.add_argument("--growth", action="store_true",
                   help="256 to 1024 px and batch 1 to 4, for ldm and diffusers-bf16-channels_last; writes unet-growth")
    args = p.parse_args()
    if args.growth:
        names, points, name = ["ldm", "diffusers-bf16-channels_last"], GROWTH, "unet-growth"
    else:
        names, points, name = args.contenders, [(args.size, args.batch)], args.name
    report.write(name, [contenders.compare_networks(names, "unet", size, batch, args) for size, batch in points])


if __name__ == "__main__":
    main()
