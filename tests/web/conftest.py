"""A studio with a tiny random model, its queue, and a server of both on a free port of the loopback."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from fastapi import FastAPI
from safetensors.torch import save_file

from ldm.web.jobs import Queue
from ldm.web.server import Server, address_of, bind, build_app
from ldm.web.studio import Studio


@pytest.fixture(scope="session")
def models_dir(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models, a LoRA that changes one layer, and a textual inversion."""
    root = tmp_path_factory.mktemp("folders")
    for folder in ("models", "loras", "embeddings"):
        (root / folder).mkdir()
    shutil.copy(tiny_model, root / "models" / "tiny.safetensors")
    shutil.copy(tiny_model, root / "models" / "other.safetensors")
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{name}.lora_down.weight": torch.randn(4, 32, generator=generator),
            f"{name}.lora_up.weight": torch.randn(32, 4, generator=generator)}
    save_file(lora, root / "loras" / "strong.safetensors")
    torch.save({"string_to_param": {"*": torch.randn(1, 64, generator=generator)}}, root / "embeddings" / "swirl.pt")
    return root


@pytest.fixture(scope="session")
def studio(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The tiny model, loaded once for all tests."""
    return Studio(tmp_path_factory.mktemp("web") / "pictures", models_dir, "tiny", "cpu", "float32")


@pytest.fixture
def queue() -> Iterator[Queue]:
    """A queue of its own for each test, for 20 jobs."""
    queue = Queue(limit=20)
    yield queue
    queue.close(10)


@pytest.fixture
def app(studio: Studio, queue: Queue) -> FastAPI:
    """The application without the page, with the test's queue."""
    return build_app(studio, queue, page=False)


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of a server of an application."""
    listening, ready = bind("127.0.0.1", 0), threading.Event()
    server = Server(app, app.state.web.queue, ready.set)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield address_of(listening)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def serving() -> Iterator[Callable[[FastAPI], str]]:
    """serving(app) -> the address of a server of it, which is stopped after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@pytest.fixture(scope="session")
def address(studio: Studio) -> Iterator[str]:
    """Of a server that all tests share, which has no page."""
    with served(build_app(studio, Queue(limit=20), page=False)) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """Speaks HTTP with the server that all tests share."""
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client
