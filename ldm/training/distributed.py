"""One process or many: what torchrun starts, DDP or FSDP2 around a network, and tensors gathered from all ranks."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """The ranks of a run, and this one's place among them."""

    rank: int
    size: int
    device: torch.device
    launched: bool = False                              # by torchrun, perhaps as the only rank

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def places(self, batch: int, micro: int = 0) -> range:
        """This rank's places in the global batch: every size-th, `batch` of them for each micro-batch."""
        return range(micro * batch * self.size + self.rank, (micro + 1) * batch * self.size, self.size)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value / self.size

    def interleave(self, own: Tensor, count: int) -> Tensor:
        """Rows of all ranks [count ...], where this one has every size-th from its rank on.  On the CPU."""
        if self.size == 1:
            return own
        rows = own.new_zeros(count, *own.shape[1:])
        rows[self.rank :: self.size] = own
        dist.all_reduce(rows)
        return rows


@contextmanager
def world(device: str) -> Iterator[World]:
    """The ranks that torchrun started, each with its own GPU where `device` is "cuda"; else this process alone."""
    if not dist.is_torchelastic_launched():
        yield World(0, 1, torch.device(device))
        return
    own = torch.device(device)
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), own, launched=True)
    finally:
        dist.destroy_process_group()


def replicate(network: nn.Module, here: World, bf16: bool = False) -> nn.Module:
    """The network, its gradients averaged over all ranks by DDP; itself where this process is alone.

    `bf16`: the gradients are sent in bfloat16, half as many bytes.
    """
    if not here.launched:
        return network
    replica = DistributedDataParallel(network)
    if bf16:
        replica.register_comm_hook(None, bf16_compress_hook)
    return replica


def bare(network: Any) -> Any:
    """The network itself, without DDP around it."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def shard(parts: Iterable[nn.Module], blocks: tuple[type[nn.Module], ...], here: World) -> None:
    """Cut the weights of each part over all ranks (FSDP2), to be gathered block by block where they are needed.

    The parts are those whose `forward` is called; their weights become DTensors.
    """
    mesh = init_device_mesh(here.device.type, (here.size,))
    for part in parts:
        part.to(memory_format=torch.contiguous_format)                  # FSDP2 takes no other
        for block in reversed(list(part.modules())):                    # the inner ones first
            if isinstance(block, blocks):
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(part, mesh=mesh, reshard_after_forward=True)        # so that averaged weights never stay gathered


def accumulating(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Where gradients of several micro-batches are added up: DDP averages them over ranks in the last one alone."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def mapped(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """A tree of dicts and lists with all its tensors changed."""
    if isinstance(tree, dict):
        return {name: mapped(value, change) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(value, change) for value in tree)
    return change(tree) if isinstance(tree, Tensor) else tree


def gather(tree: Any) -> Any:
    """A tree of dicts and lists with its sharded tensors whole on the main rank; all ranks have to call it.

    On the other ranks the sharded ones are empty.
    """
    def whole(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        full = tensor.full_tensor()
        return full.cpu() if is_main() else full.new_empty(0)

    return mapped(tree, whole)


def cut(saved: dict, target: Any) -> dict:
    """The state_dict of a module, an average or an optimizer, its whole tensors sharded and laid out as the target's.

    AdamW's fused kernels take moments to lie in memory as their weight does, and do not look.
    """
    def like(tensor: Any, own: Any) -> Any:
        if not (isinstance(tensor, Tensor) and isinstance(own, Tensor) and tensor.shape == own.shape):
            return tensor
        if isinstance(own, DTensor):
            whole = tensor.to(own.device).contiguous()
            return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)
        return tensor if tensor.stride() == own.stride() else torch.empty_like(own, device="cpu").copy_(tensor)

    if isinstance(target, torch.optim.Optimizer):
        weights = [weight for group in target.param_groups for weight in group["params"]]
        moments = {i: {name: like(value, weights[i]) for name, value in of.items()}
                   for i, of in saved["state"].items() if i < len(weights)}
        return {**saved, "state": moments}
    own = target.state_dict()
    return {name: like(value, own.get(name)) for name, value in saved.items()}
