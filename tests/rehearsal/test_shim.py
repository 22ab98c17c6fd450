"""Where the library of the pretended GPU cannot be used, the dry run says what to do."""

import re
from pathlib import Path

import pytest

from pretrain.errors import UserError
from pretrain.rehearsal import shim


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "fake_cuda.so"
    library.write_text("not a library")
    monkeypatch.setattr(shim, "built_library", lambda: library)
    with pytest.raises(
        UserError, match=rf"cannot be loaded: {re.escape(str(library))}: .*; remove this file"
    ):
        shim.pretend_gpu(True)


def test_architectures_that_share_a_home_have_libraries_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\n: > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler))
    built = set()
    for machine in ("x86_64", "aarch64", "x86_64"):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        built.add(shim.built_library())
    assert len(built) == 2
