"""Give a model the weights of a file: every parameter takes exactly one tensor, and no tensor is left over."""

from collections.abc import Iterable

import torch
from torch import nn

from ldm.naming import Row
from ldm.weights.checkpoint import Part, listing
from ldm.weights.entries import CheckpointError, Entry, Reader

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def match(model: nn.Module, rows: Iterable[Row], part: Part) -> dict[str, Entry]:
    """Where each of the model's weights lies in the file, from names and shapes alone.

    `rows` are the component's names for its configuration.  One transform is implicit: shapes may differ by sides of
    length 1 (a 1x1 convolution is a linear layer).
    Raises CheckpointError naming at most ten tensors each that are missing, unexpected, misshapen or not float.
    """
    theirs = {ours: compvis if part.layout == "compvis" else diffusers for ours, compvis, diffusers in rows}
    matched, missing, misshapen, unsupported = {}, [], [], []
    for ours, tensor in model.state_dict().items():
        module, _, parameter = ours.rpartition(".")
        name = f"{theirs[module]}.{parameter}".removeprefix("text_model.")
        entry = matched[ours] = part.entries.get(name)
        if entry is None:
            missing.append(name)
        elif squeezed(entry.shape) != squeezed(tensor.shape):
            misshapen.append(f"{name} is {list(entry.shape)}, not {list(tensor.shape)}")
        elif entry.dtype not in DTYPES:
            unsupported.append(f"{name} is {str(entry.dtype).removeprefix('torch.')}")
    taken = set(map(id, matched.values()))
    unexpected = [name for name, entry in part.entries.items() if id(entry) not in taken]
    found = [("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshapen),
             ("neither float32, float16 nor bfloat16", unsupported)]
    problems = [f"{len(names)} {what} ({listing(names)})" for what, names in found if names]
    if problems:
        raise CheckpointError(f"{part.path} does not fit the {part.name}, tensors: {', '.join(problems)}; "
                              "take a whole file in the official layout")
    return matched


def squeezed(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


@torch.no_grad()
def fill(model: nn.Module, rows: Iterable[Row], part: Part, dtype: torch.dtype, device: str | torch.device = "cpu",
         layout: torch.memory_format = torch.contiguous_format) -> None:
    """Replace the model's weights, which may be on the meta device, by the file's, as `dtype` on `device`.

    Weights that lie as wanted are mapped from the file; others pass through one buffer, in file order, each straight
    into its final place, so that memory never holds more than the result and one tensor.  `layout` is that of weights
    of four sides.  Raises CheckpointError as `match`, before any weight is read.
    """
    matched, shapes = match(model, rows, part), {name: tensor.shape for name, tensor in model.state_dict().items()}
    reader, weights = Reader(), {}
    for name, entry in sorted(matched.items(), key=lambda item: (item[1].path, item[1].offset)):
        weights[name] = reader.load(entry, dtype, device, layout).reshape(shapes[name])
    model.load_state_dict(weights, assign=True)
