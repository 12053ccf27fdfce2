"""The restricted unpickler executes nothing, whatever a file asks for."""

import collections
import contextlib
import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy
import pytest
import torch

from ldm.weights import CheckpointError, open_checkpoint
from ldm.weights.pickles import LEGACY_MAGIC, PlainDict, Stub, unpickle

PATH = Path("m.ckpt")


class Call:
    """Pickles as a call of `function`, by REDUCE, then BUILD if a state is given."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def hostile_pickles(proof: Path) -> dict[str, bytes]:
    """Programs each of which would create `proof`."""
    shell, code = f"touch {proof}", touch(proof)
    command = b"S'" + shell.encode() + b"'\n"           # pushes the string
    source = b"S'" + code.encode().replace(b"'", b"\\'") + b"'\n"
    called = b"cposix\nsystem\n(" + command + b"tR"     # pushes the result
    ordered = collections.OrderedDict
    return {
        "os.system by REDUCE": pickle.dumps({"state_dict": Call(os.system, shell)}, protocol=2),
        "builtins.eval": pickle.dumps(Call(eval, code), protocol=4),
        "builtins.exec in a list": pickle.dumps([1, {"a": [Call(exec, code)]}], protocol=2),
        "as a dictionary's key": b"}" + called + b"K\x01s.",
        "nested in BUILD": pickle.dumps(Call(ordered, state={"a": Call(os.system, shell)}), protocol=2),
        "BUILD of a callable": pickle.dumps(Call(os.system, shell, state=({}, {"x": Call(eval, code)})), protocol=2),
        "GLOBAL to posix": called + b".",
        "INST": b"(" + command + b"iposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + command + b"o.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + command + b"tR.",
        "NEWOBJ of a process": b"\x80\x02csubprocess\nPopen\n((S'touch'\nS'" + bytes(proof) + b"'\nlt\x81.",
        "getattr to a builtin": b"cbuiltins\ngetattr\n(cbuiltins\n__dict__\nS'get'\ntR(S'eval'\ntR(" + source + b"tR.",
        "torch.load of another": pickle.dumps(Call(torch.load, str(proof)), protocol=2),
        "state of an allowed function": b"ctorch._utils\n_rebuild_parameter\n}S'x'\n" + called + b"sb.",
        "a persistent id": b"(S'storage'\n" + called + b"S'0'\nS'cpu'\nK\x01tQ.",
    }


NAMES = list(hostile_pickles(Path("proof")))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_pickle_executes_nothing(name, tmp_path):
    proof = tmp_path / "proof"
    program = hostile_pickles(proof)[name]
    try:
        unpickle(io.BytesIO(program), PATH)
    except CheckpointError:
        pass                                        # refusing it is as good
    assert not proof.exists()


@pytest.mark.parametrize("name", ["os.system by REDUCE", "builtins.eval", "as a dictionary's key", "nested in BUILD",
                                  "GLOBAL to posix", "INST", "OBJ", "STACK_GLOBAL", "BUILD of a callable"])
def test_the_hostile_pickles_do_execute_in_plain_pickle(name, tmp_path):
    """The proof proves something: the same programs, read by pickle itself, create the file."""
    with contextlib.suppress(Exception):            # some fail after the harm is done
        pickle.loads(hostile_pickles(tmp_path / "proof")[name])
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_hostile_checkpoint_executes_nothing(zipped, official, tmp_path, load, models, assert_same):
    """In a whole file, beside good weights, which load."""
    content = {"state_dict": official, "callbacks": Call(os.system, f"touch {tmp_path / 'proof'}")}
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    assert_same(load(open_checkpoint(tmp_path / "m.ckpt"))["vae"], models["vae"])
    assert not (tmp_path / "proof").exists()


def test_nothing_is_imported(tmp_path):
    (tmp_path / "trap_module.py").write_text(touch(tmp_path / "proof"))
    sys.path.insert(0, str(tmp_path))
    try:
        assert unpickle(io.BytesIO(b"ctrap_module\nanything\n."), PATH)[0] is Stub
    finally:
        sys.path.remove(str(tmp_path))
    assert "trap_module" not in sys.modules and not (tmp_path / "proof").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_lightning_objects_become_stubs(zipped, official, tmp_path, load, models, assert_same):
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback               # type: ignore[attr-defined]
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", module.__name__]
    objects = {callback: {"best_model_score": torch.tensor(0.1), "best": callback()}}
    adam = {"state": {0: {"exp_avg": torch.zeros(9, dtype=torch.float64)}}, "param_groups": [{"lr": 1e-4}]}
    content = {"epoch": 3, "callbacks": objects, "optimizer_states": [adam], "scalar": numpy.float64(0.5),
               "state_dict": collections.OrderedDict(official), "hyper_parameters": callback()}
    sys.modules |= dict.fromkeys(names, module)
    try:
        torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    finally:
        for name in names:
            del sys.modules[name]
    source = open_checkpoint(tmp_path / "m.ckpt")
    assert not any(name in sys.modules for name in names)
    for part, model in load(source).items():        # the optimizer's storages lie between the weights
        assert_same(model, models[part])


def test_what_a_pickle_sets_on_containers_is_dropped():
    program = pickle.dumps(Call(collections.OrderedDict, state={"items": 1, "keys": 2}), protocol=2)
    made, _ = unpickle(io.BytesIO(program), PATH)
    assert type(made) is PlainDict and not vars(made)


def test_huge_memo_index_takes_no_memory():
    """An index of 4 billion makes the unpickler in C allocate 64 GiB."""
    assert unpickle(io.BytesIO(b"\x80\x02]r\xf0\xff\xff\xff."), PATH)[0] == []


def test_state_dict_that_contains_itself_is_no_model(tmp_path):
    loop: dict = {}
    loop["state_dict"] = loop
    torch.save(loop, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="of a kind that we do not know"):
        open_checkpoint(tmp_path / "m.ckpt")


def test_bytes_of_protocol_2_are_read():
    assert unpickle(io.BytesIO(pickle.dumps(b"\x00\xff", protocol=2)), PATH)[0] == b"\x00\xff"


def test_parameters_of_modules_load(official, tmp_path, load, models, assert_same):
    torch.save({k: torch.nn.Parameter(v) for k, v in official.items()}, tmp_path / "m.pt")
    assert_same(load(open_checkpoint(tmp_path / "m.pt"))["unet"], models["unet"])


@pytest.mark.parametrize(("offset", "shape", "stride"), [(10**12, (2,), (1,)), (0, (10**6, 10**6), (10**6, 1)),
                                                         (-4, (2,), (1,)), (0, (2,), (-1,))])
def test_tensors_outside_their_storage_are_refused(offset, shape, stride, tmp_path):
    class Description:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, stride, False, {})

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(obj, Storage) else None

    data = io.BytesIO()
    Pickler(data, protocol=2).dump({"encoder.conv_in.weight": Description()})
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
        archive.writestr("archive/data/0", b"\0" * 16)
    with pytest.raises(CheckpointError, match="truncated or damaged: encoder.conv_in.weight"):
        open_checkpoint(tmp_path / "m.pt", expect="vae")


@pytest.mark.parametrize("keys", [["0", 3, []], {}, ["unknown"]])
def test_legacy_file_with_wrong_keys_is_refused(keys, tmp_path):
    good = io.BytesIO()
    torch.save({"encoder.conv_in.weight": torch.zeros(2)}, good, _use_new_zipfile_serialization=False)
    good.seek(0)
    pickles = [pickle.load(good) for _ in range(3)]
    assert pickles[0] == LEGACY_MAGIC
    start = good.tell()
    unpickle(good, PATH)
    tree = good.getvalue()[start : good.tell()]
    head = b"".join(pickle.dumps(p, protocol=2) for p in pickles)
    (tmp_path / "m.pt").write_bytes(head + tree + pickle.dumps(keys, protocol=2))
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(tmp_path / "m.pt", expect="vae")
