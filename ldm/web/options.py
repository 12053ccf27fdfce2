"""Options: what A1111's clients set for all requests, or, as override_settings, for one."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ldm.settings import within
from ldm.web.a1111 import UnknownName, find_source
from ldm.web.studio import Studio

HASH = re.compile(r" \[[0-9a-f]+\]$")                # A1111 writes it after a model's name
NO_VAE = ("automatic", "none", "")


@dataclass(frozen=True)
class Options:
    """The options that have an effect, by A1111's names."""

    sd_model_checkpoint: str
    sd_vae: str = "Automatic"
    CLIP_stop_at_last_layers: int = 1
    randn_source: str | None = None                     # None: as the preset of a request
    live_previews_enable: bool = True

    @property
    def vae(self) -> str:
        """The name of the file whose VAE is taken; "" for the model's own."""
        return "" if self.sd_vae == "Automatic" else self.sd_vae

    def told(self) -> dict[str, Any]:
        """As a client reads them, and may send them back, which changes nothing."""
        return asdict(self)


def changed(options: Options, changes: Mapping[str, Any], studio: Studio) -> tuple[Options, list[str]]:
    """Options with some changed, and notes on those that have no effect here.

    Raises UnknownName for a name of something that is not there, and ValueError for a value of another kind.
    """
    values = {name: check(name, value, studio) for name, value in changes.items() if name in NAMES}
    notes = [f"option {name!r} has no effect here and was ignored" for name in changes if name not in NAMES]
    return replace(options, **values), notes


def check(name: str, value: Any, studio: Studio) -> Any:
    """The value of an option as we keep it."""
    match name:
        case "sd_model_checkpoint":
            return find_model(value, studio)
        case "sd_vae":
            return "Automatic" if value is None or str(value).casefold() in NO_VAE else find_model(value, studio)
        case "randn_source":
            if value is None:
                return None
            find_source(value)
            return str(value).upper()
        case "CLIP_stop_at_last_layers":
            if type(value) is not int:
                raise ValueError(f"{name} {str(value)[:40]!r} is not a whole number; give one from 1 to 12")
            within(name, value, 1, 12)
    if name == "live_previews_enable" and not isinstance(value, bool):
        raise ValueError(f"{name} {str(value)[:40]!r} is neither true nor false; give one of them")
    return value


def find_model(name: Any, studio: Studio) -> str:
    """The name of a model that a client may write with its suffix, its hash in brackets, or in other letters' case."""
    models, written = studio.models(), str(name).strip().casefold()
    for called in (written, HASH.sub("", written)):
        for known, path in models.items():
            if called in (known.casefold(), f"{known}{path.suffix}".casefold()):
                return known
    raise UnknownName(f"there is no model {str(name)[:100]!r}; there is {', '.join(studio.models())}")


NAMES = {field.name for field in fields(Options)}
