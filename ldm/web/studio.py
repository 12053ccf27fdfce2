"""Studio: the one model in memory, what is put on it, and the folder that its pictures go to."""

import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.files import stamp
from ldm.images import save_image
from ldm.pipeline import BUNDLED, Pipeline
from ldm.plan import Plan
from ldm.plugins import extract_loras, named_in
from ldm.plugins.embeddings import words_of
from ldm.plugins.folders import Kind, entries, home, search, stem
from ldm.prepare import enough_memory, release_memory
from ldm.preview import make_preview
from ldm.samplers import Prediction, Step
from ldm.web.jobs import Job
from ldm.web.orders import Order, draw, passes

OWN = "bundled"                                         # the name of the model that ships along
CELLS = "cells"                                         # folder, below that of the pictures, of what grids are made of


class Studio:
    """Draws orders, one at a time: `draw` and `use` are for one thread, that of the queue; the rest is for any.

    The model is loaded at its first use.  `out`: the folder of pictures; `models_dir`: that of `ldm.plugins.find`.
    """

    def __init__(self, out: Path, models_dir: Path | None = None, model: str = OWN, device: str = "auto",
                 dtype: str = "auto"):
        self.out, self.models_dir = out, models_dir
        self.device, self.dtype = device, dtype
        self.model = model                              # that an order without one gets
        self.pipe: Pipeline | None = None
        self._loaded: tuple[Any, ...] | None = None     # files and prediction of `pipe`
        self._worn: list[tuple[Any, float]] | None = []             # its LoRAs; None: not known
        self._preview: Callable[..., Any] | None = None

    def models(self) -> dict[str, Path]:
        """Model files by name, the bundled one first; looked up anew each time."""
        return {OWN: BUNDLED} | self.files("models")

    def files(self, kind: Kind) -> dict[str, Path]:
        """Files of weights, or folders that are a model, by name: what lies below the folder of their kind.

        They are named without suffix, unless that leaves two with one name.
        """
        root = home(kind, self.models_dir)
        names = {path: path.relative_to(root).with_name(stem(path)).as_posix() for path in entries(root)}
        count = Counter(name.casefold() for name in names.values())
        return {name if count[name.casefold()] == 1 else path.relative_to(root).as_posix(): path
                for path, name in names.items()}

    def path_of(self, model: str) -> Path:
        """The file of a model.  Raises ValueError for what is no name of `models`: paths are not taken from outside."""
        found = self.models()
        if model not in found:
            raise ValueError(f"there is no model {model!r}; there is {', '.join(found)}")
        return found[model]

    def use(self, model: str = "", vae: str = "", prediction: Prediction | None = None) -> Pipeline:
        """The pipeline of a model, "" being the last one chosen; the one before is freed first.

        `vae`: a name among the models, "" for the model's own.  A file that was written anew is loaded anew.
        Raises ValueError, and CheckpointError where a file does not fit; then the next order loads anew.
        """
        model = model or self.model
        path, vae_path = self.path_of(model), self.path_of(vae) if vae else None
        wanted = stamp(path), vae_path and stamp(vae_path), prediction
        if self.pipe is None or self._loaded != wanted:
            self.pipe = self._loaded = self._preview = None
            self._worn = []
            gc.collect()
            release_memory()
            self.pipe = Pipeline.load(path, self.device, self.dtype, prediction=prediction, vae=vae_path)
            self._loaded = wanted
        self.model = model
        return self.pipe

    def preview(self, latents: Any) -> Any:
        """A quick picture of the first of some latents (`step.x0`) of the model in memory."""
        assert self.pipe
        if self._preview is None:
            self._preview = make_preview(self.pipe.vae)
        return self._preview(latents[:1])[0]

    def wear(self, loras: list[tuple[str, float]], texts: list[str]) -> None:
        """Put on just these LoRAs, by name and weight, and teach the prompts the textual inversions that they name."""
        assert self.pipe
        paths = [(search("loras", name, self.models_dir), weight) for name, weight in loras]       # never a path
        wanted = [(stamp(path), weight) for path, weight in paths]
        if wanted != self._worn:
            self._worn = None                           # where one of them does not fit, the next order begins anew
            self.pipe.unload_lora()
            for path, weight in paths:
                lora = self.pipe.load_lora(path, weight)
                if lora.unmatched:
                    warnings.warn(f"LoRA {lora.name}: {len(lora.unmatched)} of its tensors fit no layer of this model",
                                  stacklevel=2)
            self._worn = wanted
        if words_of(self.pipe.tokenizer):               # a tokenizer is made anew, which takes a tenth of a second
            self.pipe.unload_embedding()
        for word, path in named_in(texts, self.models_dir).items():
            self.pipe.load_embedding(path, word)

    def prepare(self, order: Order) -> tuple[Pipeline, Order]:
        """The model that an order wants, with its LoRAs on; and the order, whose prompt no longer names them."""
        prompt, loras = extract_loras(order.prompt)
        pipe = self.use(order.model, order.vae, order.prediction)
        self.wear(loras, [prompt, order.settings.get("negative_prompt", ""), *order.axis_prompts()])
        return pipe, replace(order, prompt=prompt)

    def draw(self, order: Order, job: Job) -> list[Path]:
        """The work of a job: draw an order, and save its pictures -> their files.

        Warnings become `job.notes`.  Raises Cancelled, MemoryError, and what the task raises.
        """
        job.passes = max(job.passes, job.passed + passes(order))        # a job may draw several orders
        with enough_memory(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            pipe, order = self.prepare(order)
            pictures = draw(pipe, order, self.watch(order, job), self.out / CELLS)
        said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        job.notes = list(dict.fromkeys([*job.notes, *said]))
        now = time.localtime()
        folder, begin = self.out / time.strftime("%Y-%m-%d", now), time.strftime("%H%M%S", now)
        return [save_image(picture, folder / f"{begin}-{job.id}-{i}.png") for i, picture in enumerate(pictures)]

    def watch(self, order: Order, job: Job) -> Callable[[Plan], Callable[[Iterator[Step]], Iterable[Step]]]:
        """What lets a job follow the steps of each pass, and stops them where it is cancelled."""
        def watch_plan(plan: Plan) -> Callable[[Iterator[Step]], Iterator[Step]]:
            total = len(plan.sigmas) - 1

            def follow(steps: Iterator[Step]) -> Iterator[Step]:
                for step in steps:
                    job.report(step.i + 1, total, self.preview(step.x0) if order.previews else None)
                    yield step
                job.next_pass()

            return follow

        return watch_plan
