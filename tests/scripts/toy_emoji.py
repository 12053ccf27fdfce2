"""A few emoji in the layout of the npm packages: plain shapes in plain colours, of which everything is known."""

import io
import json
from pathlib import Path

import resvg_py
from PIL import Image

DISC, BOX = '<circle cx="16" cy="16" r="13"/>', '<path d="M4 4h24v24h-24z"/>'
KITE, BAR = '<path d="M16 2L29 16L16 30L3 16z"/>', '<path d="M3 11h26v10h-26z"/>'
TENT, DROP = '<path d="M16 4L30 28H2z"/>', '<path d="M16 28L30 4H2z"/>'
POLE, CROSS = '<path d="M11 3h10v26h-10z"/>', '<path d="M12 3h8v9h9v8h-9v9h-8v-9h-9v-8h9z"/>'
# label, shape, fill, group and subgroup of emojibase, tags
OBJECTS = [
    ("fox", DISC, "#e87010", 3, 34, ["animal", "vixen"]),
    ("tiger", BOX, "#e87010", 3, 34, ["animal"]),
    ("kite", KITE, "#2060e0", 6, 64, ["toy", "string"]),
    ("taco", BAR, "#e8c010", 4, 44, ["food"]),
    ("tent", TENT, "#209030", 5, 52, ["camping"]),
    ("balloon", DROP, "#d02020", 6, 60, ["toy"]),
    ("pencil", POLE, "#8030d0", 7, 75, ["tool"]),
    ("plus sign", CROSS, "#10b0b0", 7, 82, ["tool"]),
    ("red apple", DISC, "#d02020", 4, 42, ["food"]),
    ("grinning face", DISC, "#e8c010", 0, 0, ["smile"]),
    ("bell", TENT, "#808080", 7, 66, ["tent-like", "sound"]),
    ("grapes", KITE, "#8030d0", 4, 42, ["food"]),
]
OTHERS = [("alarm clock", DISC, "#d02020", 5, 58, []), ("flag: Toy", BOX, "#2060e0", 9, 98, []),
          ("person: bald", DISC, "#e8c010", 1, 23, [])]
SKINS = ["#f0d0b0", "#d0a880", "#a88058", "#805830", "#503010"]
CHINESE = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳"
ONLY_3D = ("egg", DISC, "#e8c010", 4, 44, [])


def svg(shape: str, fill: str, style: str) -> str:
    """The body of an icon; a cartoon has an outline."""
    outline = ' stroke="#302010" stroke-width="2"' if style == "cartoon" else ""
    return f'<g fill="{fill}"{outline}>{shape}</g>'


def write_packages(source: Path) -> Path:
    """Write packages as `emoji_sprites.download` would leave them below `source`."""
    names = {"en": [], "zh": []}
    bodies: dict[str, tuple[str, str]] = {}
    for i, (label, shape, fill, group, subgroup, tags) in enumerate([*OBJECTS, *OTHERS, ONLY_3D]):
        key = f"{0x1f900 + i:x}"
        bodies[key] = shape, fill
        entry = {"label": label, "hexcode": f"{key.upper()}-FE0F", "tags": tags, "group": group, "subgroup": subgroup}
        names["en"].append(entry)
        names["zh"].append({"label": f"物{CHINESE[i]}", "hexcode": entry["hexcode"]})
    tones = [f"1f44b-1f3f{c}" for c in "bcdef"]
    bodies |= {key: (POLE, fill) for key, fill in zip(["1f44b", *tones], ["#e8c010", *SKINS], strict=True)}
    skins = [{"hexcode": key.upper(), "tone": i} for i, key in enumerate(tones, start=1)]
    names["en"].append({"label": "waving hand", "hexcode": "1F44B", "group": 1, "subgroup": 16, "skins": skins})
    names["zh"].append({"label": "挥手", "hexcode": "1F44B"})
    write(source / "emojibase-data-17.0.0", {f"{language}/data.json": found for language, found in names.items()})
    kinds = [{"order": n, "message": f"kind {n}"} for n in range(100)]
    write(source / "emojibase-data-17.0.0", {"en/messages.json": {"subgroups": kinds}})
    write_icons(source / "iconify-json-fluent-emoji-flat-1.2.6", bodies, "flat")
    write_icons(source / "iconify-json-noto-1.2.9", bodies, "cartoon")
    assets = source / "lobehub-fluent-emoji-3d-1.1.0" / "package" / "assets"
    assets.mkdir(parents=True)
    exchanged = {"1f44b-1f3fc": "1f44b-1f3fd", "1f44b-1f3fd": "1f44b-1f3fc"}    # as the real package has them
    for key, (shape, fill) in bodies.items():
        icon = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{svg(shape, fill, "3d")}</svg>'
        picture = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=icon, width=256, height=256)))
        picture.save(assets / f"{exchanged.get(key, key)}.webp", lossless=True)
    return source


def write_icons(folder: Path, bodies: dict[str, tuple[str, str]], style: str) -> None:
    """An Iconify set of all but the last object."""
    last = f"{0x1f900 + len(OBJECTS) + len(OTHERS):x}"
    found = {key: body for key, body in bodies.items() if key != last}
    icons = {f"icon-{key}": {"body": svg(*body, style)} for key, body in found.items()}
    write(folder, {"icons.json": {"width": 32, "height": 32, "icons": icons, "aliases": {}},
                   "chars.json": {key: f"icon-{key}" for key in found}})


def write(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = folder / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
