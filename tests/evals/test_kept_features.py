"""Features that an evaluation keeps in a run's folder are used only if they are what was written."""

from pathlib import Path

import numpy as np

from evals.images.features import _read, _write


def test_kept_features_of_another_shape_are_made_anew(tmp_path: Path) -> None:
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    _write(tmp_path, "real", {}, features)
    found = _read(tmp_path, "real", (4, 3))
    assert found is not None
    np.testing.assert_array_equal(found, features)
    _write(tmp_path, "real", {}, features[:3])  # its checksum fits
    assert _read(tmp_path, "real", (4, 3)) is None
    (tmp_path / "real.json").write_text("[" * 100_000)
    assert _read(tmp_path, "real", (3, 3)) is None
