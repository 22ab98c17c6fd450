"""Objects that ranks exchange arrive as they were, and nothing but plain data is sent or taken."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch.distributed import HashStore

from pretrain.distributed import objects

PLAIN: list[Any] = [
    None,
    "é",
    [(None, False), ((("wd_mult", 0.0),), True)],
    {"a": [1, 2.5, ()], 3: {}, (1, "x"): -1},
    [float("inf"), 10**30, ""],
]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_object_to_tensor", "_tensor_to_object", "_pickler", "_unpickler"):
        monkeypatch.setattr(c10d, name, getattr(c10d, name))
    objects.install()


@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    sent, size = c10d._object_to_tensor(value, torch.device("cpu"), None)
    sent.resize_(int(size) + 9)  # as torch does where another rank sends more
    found = c10d._tensor_to_object(sent, size, None)
    assert found == value and repr(found) == repr(value)


def test_all_of_torchs_object_collectives_go_that_way() -> None:
    """In one process; between ranks in test_no_pickles."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60))
    try:
        gathered: list[Any] = [None]
        dist.all_gather_object(gathered, PLAIN[3])
        shared = [PLAIN[2]]
        dist.broadcast_object_list(shared, src=0)
        scattered: list[Any] = [None]
        dist.scatter_object_list(scattered, [PLAIN[1]], src=0)
        assert (gathered, shared, scattered) == ([PLAIN[3]], [PLAIN[2]], [PLAIN[1]])
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("value", [object(), {1}, b"bytes", timedelta(1), torch.zeros(1)])
def test_what_is_no_plain_data_is_not_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="ranks exchange no objects of a class"):
        c10d._object_to_tensor(value, torch.device("cpu"), None)


@pytest.mark.parametrize("raw", [b"\x80\x04N.", b'{"set": []}', b'{"list": [], "tuple": []}', b"[", b"\xff"])
def test_what_is_no_plain_data_is_not_taken(raw: bytes) -> None:
    sent = torch.tensor(list(raw), dtype=torch.uint8)
    with pytest.raises(ValueError):
        c10d._tensor_to_object(sent, len(raw), None)
    for size in (-1, len(raw) + 1):
        with pytest.raises(ValueError, match="a peer sent an object of"):
            c10d._tensor_to_object(sent, size, None)


def test_torch_has_no_other_way_to_unpickle() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="ranks exchange no pickles"):
        pool.submit(c10d._unpickler, None).result()
