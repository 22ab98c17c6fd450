"""Messages speak of what the user gave, not of Python's objects, and what they propose works."""

from collections.abc import Callable
from pathlib import Path

import pytest
from gan_configs import gan_config
from image_shards import build_image_shards

from data_tools.errors import UserError
from data_tools.images.pixels import BadImage, decode, read_square
from pretrain.checkpoint import index
from pretrain.checkpoint.manifest import parse_manifest
from pretrain.config.generate_request import GenerateRequest
from pretrain.errors import IntegrityError
from pretrain.gan.data import open_images
from pretrain.gan.generate import generate_command
from pretrain.tracking.compare import compare_command

OF_AN_INDEX = f'{{"format": "{index.FORMAT}", "format_version": {index.VERSION}, "tensors": '


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: index.parse(b"null", "index.json"), "another type"),
        (lambda: index.parse(b"{}", "index.json"), "has no key 'format'"),
        (lambda: index.parse(f"{OF_AN_INDEX}null}}".encode(), "index.json"), "another type"),
        (lambda: parse_manifest(b"null"), "another type"),
        (lambda: parse_manifest(b"{}"), "has no key 'sha256'"),
        (lambda: read_square(b"", 8, 3), "of no format that is read"),
        (lambda: decode(b"GIF89a", 8, 3), "of no format that is read"),
    ],
)
def test_damage_is_told_without_the_names_of_types(read: Callable[[], object], said: str) -> None:
    with pytest.raises((IntegrityError, ValueError, BadImage)) as caught:
        read()
    message = str(caught.value)
    assert said in message
    assert not any(word in message for word in ("NoneType", " object at 0x", "Error", "subscriptable")), (
        message
    )


@pytest.mark.parametrize(("size", "proposed"), [(16, True), (48, False)])
def test_a_size_of_images_is_proposed_only_where_a_gan_takes_it(
    tmp_path: Path, size: int, proposed: bool
) -> None:
    shards = build_image_shards(tmp_path / "shards", size=size, channels=3)
    with pytest.raises(UserError, match="build them with --size 32") as caught:
        open_images(gan_config(model__image_size=32, data__train=shards), 1)
    assert (f"set model.image_size: {size}" in str(caught.value)) is proposed


@pytest.mark.parametrize(("name", "right"), [("x.jpg", "x.png"), ("x.WEBP", "x.png"), ("a/x.pdf", "a/x.png")])
def test_a_picture_in_another_format_than_png_is_refused(name: str, right: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a grid is written as PNG; choose {right}, or a folder"):
        generate_command(GenerateRequest("none", output=name, count=4, seed=0))
    assert not (tmp_path / name).exists()


def test_a_drawing_in_another_format_than_png_is_refused() -> None:
    with pytest.raises(UserError, match=r"--plot a/c\.svg: is drawn as PNG; choose a/c\.png"):
        compare_command(["none"], "a/c.svg")
