"""Presets: the configs that come with the package, to be listed, copied and edited.

They are the repository's `configs/`. `pretrain/configs` is a symbolic link to it, and a folder in a wheel, so
that a clone, an editable install and a wheel find the same files at the same path.
"""

import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import yaml

from pretrain.config.schema import nearest_name
from pretrain.errors import UserError, named

FOLDER = "configs"
"""Name of the folder in the package, and in the paths that docs and the heads of presets show."""
SUFFIX = ".yaml"


def presets_folder() -> Path:
    """Where the presets are on this machine. Links are resolved, so that a clone shows its own `configs/`."""
    return Path(str(files("pretrain") / FOLDER)).resolve()


def preset_names() -> tuple[str, ...]:
    """Every preset as `FOLDER/NAME`, sorted."""
    folder = presets_folder()
    paths = folder.rglob(f"*{SUFFIX}")
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths))


def preset_path(name: str) -> Path:
    """The file of a preset.

    Args:
        name: `gpt/tiny`, or its last part if no other preset has the same; with or without `.yaml`.

    Raises:
        UserError: there is no such preset, or there are several.
    """
    wanted, names = name.removesuffix(SUFFIX), preset_names()
    found = [each for each in names if wanted in {each, each.rpartition("/")[2]}]
    if len(found) > 1:
        raise UserError(f"{name}: is the name of {len(found)} presets: {', '.join(found)}; give one in full")
    if not found:
        meant = nearest_name(wanted, [*names, *(each.rpartition("/")[2] for each in names)])
        hint = f" (did you mean '{meant}'?)" if meant else ""
        raise UserError(f"{name}: no such preset{hint}; `pretrain configs` lists them")
    return presets_folder() / f"{found[0]}{SUFFIX}"


def copy_hint(path: str) -> str | None:
    """The command that writes a path such as `configs/gpt/tiny.yaml`, if that is a preset in a clone."""
    name = path.removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)
    if path != f"{FOLDER}/{name}{SUFFIX}" or name not in preset_names():
        return None
    return f"pretrain configs copy {name} {path}"


def copy_preset(name: str, target: str | None) -> Path:
    """Write a preset, and the files that it names, for a user to edit.

    The commands in its head name the copy afterwards. Files that the preset names relative to itself (a base,
    the examples of a task) are copied to the same places beside the copy; they may exist already.

    Args:
        name: as for `preset_path`.
        target: a new file, or a folder; None: a file of the preset's name here.

    Returns:
        The new file.

    Raises:
        UserError: there is no such preset; or the file exists, which is never overwritten.
    """
    source = preset_path(name)
    path = Path(source.name if target is None else target)
    if path.is_dir() or (target is not None and target.endswith("/")):
        path = path / source.name
    text = _with_own_name(source, path)
    beside = {path.parent / other: (source.parent / other).read_bytes() for other in _names_beside(source)}
    for other, content in beside.items():
        if other.exists() and other.read_bytes() != content:
            raise UserError(f"{other}: is there and differs from the preset's; nothing is overwritten")
    _write_new(path, text.encode())
    for other, content in beside.items():
        if not other.exists():
            _write_new(other, content)
    return path


def _with_own_name(source: Path, path: Path) -> str:
    """The text of a preset, with comments that name the copy's path in place of the preset's."""
    own = f"{FOLDER}/{source.relative_to(presets_folder()).as_posix()}"
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    new = shlex.quote(str(path))
    return "".join(line.replace(own, new) if line.startswith("#") else line for line in lines)


def _names_beside(source: Path) -> list[str]:
    """What a preset names relative to its own folder: each string in it that is a file there."""
    words = _strings(yaml.safe_load(source.read_text(encoding="utf-8")))
    return sorted({word for word in words if _is_file(source.parent / word)})


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the text is too long for a file name
        return False


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child)


def _write_new(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made: {error.strerror}") from None
    try:
        with named(path), open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        raise UserError(f"{path}: is there already; nothing is overwritten, give another name") from None
