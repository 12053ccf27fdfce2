"""Time every kernel of `ldm.attention` at the shapes of Stable Diffusion 1.5: what its table of kernels rests on.

    python benchmarks/bench_attention.py
"""

import harness
import report

KERNELS = ("sdpa", "blocked", "native")
SHAPES = [                                              # batch, heads, queries, keys, channels a head
    (2, 8, 4096, 4096, 40), (2, 8, 4096, 77, 40), (2, 8, 1024, 1024, 80), (2, 8, 1024, 77, 80),
    (2, 8, 256, 256, 160), (2, 8, 64, 64, 160),         # the UNet at 512 px, both halves of guidance
    (1, 1, 4096, 4096, 512),                            # the VAE
]


def main() -> None:
    p = harness.parser(__doc__, "attention")
    args = p.parse_args()
    tables = []
    for dtype in ("bfloat16", "float32"):
        for shape in SHAPES:
            batch, heads, length, keys, width = shape
            racing = [harness.Contender(kernel, "networks:one_attention",
                                        {"shape": shape, "dtype": dtype, "kernel": kernel}) for kernel in KERNELS]
            title = f"{dtype}, batch {batch}, heads {heads}, {length} x {keys} tokens, {width} channels a head"
            flops = 4 * batch * heads * length * keys * width           # two products, multiply and add
            tables.append(harness.compare(title, [*racing, harness.MATMUL], args, flops))
    report.write(args.name, tables)


if __name__ == "__main__":
    main()
