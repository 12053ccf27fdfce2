"""Endless samples in an order that is known from the seed, shared out among ranks and workers; the order resumes."""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ldm.training.data import nth, permutation
from ldm.training.distributed import World
from ldm.training.draws import generator
from ldm.training.shards import Shards

SHUFFLED = 1000                                         # samples of a shard that are shuffled among themselves
Mark = list[int]                                        # where a stream of shards stands: epoch, shard, sample
Sample = tuple[int, Mark, Tensor, list[str]]            # lane, mark after it, picture or latent, captions


class Indexed(Protocol):
    """Samples known by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> tuple[Tensor, list[str]]: ...


class Latents:
    """Latents [N 4 h w] that are in memory, with captions, as samples."""

    def __init__(self, latents: Tensor, texts: Sequence[list[str]]):
        self.latents, self.texts = latents, texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> tuple[Tensor, list[str]]:
        return self.latents[i].clone(), self.texts[i]       # alone: a worker sends the whole storage of a view


class Lane(IterableDataset):
    """What one worker of one rank reads.  Sample k of the rank comes from lane k modulo the number of lanes."""

    def __init__(self, data: Any, seed: int, here: World, lanes: int, position: dict[str, Any]):
        self.data, self.seed, self.rank, self.ranks, self.lanes = data, seed, here.rank, here.size, lanes
        self.position = position

    def lane(self) -> int:
        """The lane of this worker: the loader asks worker 0 first, a resumed run goes on with another lane."""
        worker = get_worker_info()
        taken = self.position["samples"] // self.ranks
        return (taken + (worker.id if worker else 0)) % self.lanes


class FolderLane(Lane):
    """Samples known by number: the n-th of all is the same whatever the number of ranks and workers."""

    data: Indexed

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        first = self.position["samples"] + self.rank + (worker.id if worker else 0) * self.ranks
        for n in count(first, self.lanes * self.ranks):
            yield 0, [], *self.data[nth(n, len(self.data), self.seed)]


class ShardLane(Lane):
    """Samples of shards.  An epoch's permutation of the shards is dealt out to all lanes of all ranks, whole shards.

    Each lane goes on to the next epoch by itself, so that no rank waits for another.
    """

    data: Shards

    def __iter__(self) -> Iterator[Sample]:
        lane = self.lane()
        start, first, skipped = self.position["marks"][self.rank][lane]
        for epoch in count(start):
            own, read = self.dealt(epoch, lane), first or skipped
            for i, url in list(enumerate(own))[first:]:
                for n, raw in enumerate(islice(self.shuffled(epoch, url), skipped, None), start=skipped + 1):
                    if decoded := self.data.decode(raw):
                        yield lane, [epoch, i, n], *decoded
                        read = True
                skipped = 0
            if not read:
                raise ValueError(f"{self.data.urls[own[0]]} (of {len(own)}) holds no picture; give other shards")
            first = 0

    def dealt(self, epoch: int, lane: int) -> list[int]:
        """The shards that fall to a lane of this rank in an epoch, by number."""
        order = permutation(len(self.data.urls), self.seed, epoch)
        return order[lane * self.ranks + self.rank :: self.lanes * self.ranks].tolist()

    def shuffled(self, epoch: int, url: int) -> Iterator[dict[str, Any]]:
        """The samples of a shard, each SHUFFLED of them in an order of their own."""
        samples = self.data.samples(self.data.urls[url])
        for n, block in enumerate(iter(lambda: list(islice(samples, SHUFFLED)), [])):
            order = torch.randperm(len(block), generator=generator(self.seed, epoch, url, n))
            yield from (block[i] for i in order.tolist())


class Reader:
    """The samples of this rank, and how far they are read.

    `workers` processes read ahead; 0 reads in this one.  `position` is that of a run before, or None at the start.
    Raises ValueError where the position is of other data, or shards are fewer than the workers of all ranks.
    """

    def __init__(self, data: Indexed | Shards, seed: int, here: World, workers: int = 0,
                 position: dict[str, Any] | None = None):
        lanes = max(workers, 1)
        marks = [[[0, 0, 0]] * lanes] * here.size if isinstance(data, Shards) else []
        position = position or {"samples": 0, "marks": marks}
        if list(map(len, position["marks"])) != list(map(len, marks)):
            ranks = len(position["marks"])
            raise ValueError(f"the run was begun with {ranks} ranks x {len(position['marks'][0]) if ranks else 0} "
                             f"workers on shards, and these are {len(marks)} x {lanes}; go on with as many, or start "
                             "another with --init")
        if isinstance(data, Shards) and len(data.urls) < here.size * lanes:
            raise ValueError(f"{len(data.urls)} shards are too few for {here.size} ranks x {lanes} workers; take fewer "
                             "workers, or cut the data into more shards")
        kind = ShardLane if isinstance(data, Shards) else FolderLane
        lane = kind(data, seed, here, lanes, position)
        self.samples = iter(lane if workers == 0 else DataLoader(lane, batch_size=None, num_workers=workers))
        self.here, self.seen = here, position["samples"]
        self.marks = position["marks"][here.rank].copy() if marks else []

    def take(self, n: int) -> tuple[Tensor, list[list[str]]]:
        """The next `n` samples of this rank: pictures [n 3 H W] or latents [n 4 h w], and captions."""
        images, texts = [], []
        for lane, mark, image, several in islice(self.samples, n):
            if mark:
                self.marks[lane] = mark
            images.append(image)
            texts.append(several)
        self.seen += n * self.here.size
        return torch.stack(images), texts

    def position(self) -> dict[str, Any]:
        """What a run goes on from; all ranks have to call it."""
        marks = [self.marks.copy()]
        if self.marks and self.here.size > 1:
            marks = [[]] * self.here.size
            dist.all_gather_object(marks, self.marks)
        return {"samples": self.seen, "marks": marks if self.marks else []}
