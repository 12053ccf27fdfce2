"""Say what a model file is, from its header alone: no weights are read, nothing in it is executed.

    python scripts/inspect_checkpoint.py model.safetensors

Takes .safetensors, .ckpt, .pt and diffusers folders: models, VAEs, LoRAs, ControlNets, textual inversions.
Exit codes: 0 told, 2 not a model file (one line says why).
"""

from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path

import cli

from ldm.loading import RULES
from ldm.weights.checkpoint import Checkpoint, listing, survey
from ldm.weights.entries import Entry
from ldm.weights.families import MODELS

LAYOUTS = {"compvis": "official (CompVis)", "diffusers": "diffusers"}
PART_NAMES = {"unet": "UNet", "vae": "VAE", "text": "text encoder"}
WORDS = {"eps": "eps: the noise", "v": "v: the velocity", "x0": "x0: the clean latents"}


def parameters(entries: Iterable[Entry]) -> int:
    return sum(prod(entry.shape) for entry in entries)


def counts(entries: Iterable[Entry]) -> str:
    """"686 tensors, 859,520,964 parameters"."""
    entries = list(entries)
    return f"{len(entries)} tensors, {parameters(entries):,} parameters"


def precision(entries: Iterable[Entry]) -> str:
    """"float16 (1130 tensors), int64 (1)"."""
    found = Counter(str(entry.dtype).removeprefix("torch.") for entry in entries)
    return ", ".join(f"{dtype} ({n} tensors)" for dtype, n in found.most_common())


def prediction(source: Checkpoint) -> str:
    """What the UNet predicts and how we know."""
    if "prediction" in source.metadata:
        said = source.metadata["prediction"]
        return f"{WORDS.get(said, said)} (the {'folder' if source.path.is_dir() else 'file'} says so)"
    rule = RULES.get(source.family, {}).get("prediction")
    if rule:
        return f"{WORDS[rule]} (the rule for {source.kind.what}; the file does not say)"
    if source.family == "sd2":
        return "eps or v (Stable Diffusion 2 has both; the file does not say)"
    return "not known (the file does not say)"


def named(entries: dict[str, Entry]) -> str:
    return f"{len(entries)}: {listing(entries)}" if entries else "none"


def short(value: object) -> object:
    """A value as it is, but of a glossary its length alone."""
    return f"of {len(value):,} phrases" if isinstance(value, dict) else value


def describe(source: Checkpoint) -> list[tuple[str, str]]:
    """The report, as (what, value) lines."""
    supported = source.family in (*MODELS, "vae", "tiny")
    lines = [("is", f"{source.kind.what} ({source.family})"), ("because", source.kind.because)]
    of_parts = [entry for part in source.parts.values() for entry in part.entries.values()]
    weights = of_parts if supported else [*of_parts, *source.unknown.values()]
    if of_parts:
        lines.append(("layout", LAYOUTS[source.layout]))
    if source.family not in ("lora", "embedding", "vae", "tiny", "controlnet", "unknown"):
        lines.append(("prediction", prediction(source)))
        lines.append(("EMA", f"{source.twins} twins, loaded unless ema=False" if source.twins else "no twins"))
    lines.append(("precision", precision(weights)))
    lines += [(PART_NAMES[name], counts(part.entries.values())) for name, part in source.parts.items()]
    if source.vocabulary is not None:
        lines.append(("vocabulary", f"{len(source.vocabulary):,} tokens stored, the others zero"))
    lines.append(("in all", counts(weights)))
    lines.append(("ignored", named(source.ignored)))
    if supported:
        lines.append(("unknown", named(source.unknown)))
    if source.metadata:
        lines.append(("metadata", ", ".join(f"{key} {short(value)}" for key, value in sorted(source.metadata.items()))))
    gib = parameters(weights) / 2**30
    lines.append(("memory", f"{2 * gib:.3g} GiB in bfloat16, {4 * gib:.3g} GiB in float32"))
    return [*lines, ("runs here", verdict(source))]


def verdict(source: Checkpoint) -> str:
    if source.family not in (*MODELS, "vae", "tiny"):
        return "not as a model"
    if source.unknown:
        return "no: it has tensors of no part"
    if source.family == "sd2" and "prediction" not in source.metadata:
        return "yes, once you say whether it predicts eps or v"
    return "yes" if source.family in MODELS else "as the VAE of a model"


def main() -> None:
    p = cli.Parser(__doc__)
    p.add_argument("path", type=Path, help="a model file or diffusers folder")
    args = p.parse_args()
    source = survey(args.path, ema=False)
    print(args.path)
    for what, value in describe(source):
        print(f"  {what:<13}{value}")


if __name__ == "__main__":
    cli.run(main)
