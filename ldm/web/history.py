"""The pictures that were drawn: files below one folder, a folder for each day, so that they outlive the server."""

from pathlib import Path

from ldm.files import listed

DAYS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"


def pictures(out: Path, count: int = 60, skip: int = 0) -> list[Path]:
    """The files of the last pictures, the newest first; what a server that was killed left unfinished is none."""
    found: list[Path] = []
    for day in sorted(out.glob(DAYS), reverse=True):
        found += [path for path in reversed(listed(day, {".png"})) if path.stat().st_size]
        if len(found) >= skip + count:
            break
    return found[skip : skip + count]
