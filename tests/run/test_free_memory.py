"""Memory that is left, under control groups of both versions as files describe them."""

from pathlib import Path

import pytest

from pretrain.run.memory import available_memory

GB = 1_000_000_000


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(path: Path, names: tuple[str, str], most: str, used: int, stat: str) -> None:
    write(path / names[0], f"{most}\n")
    write(path / names[1], f"{used}\n")
    write(path / "memory.stat", stat)


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_this_machine() -> None:
    found = available_memory()
    assert found is not None and 1 << 20 < found < 1 << 50


def test_nobody_says(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_a_machine_without_groups(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 99 kB\nMemAvailable:   16000 kB\n")
    assert available_memory(tmp_path) == 16_384_000


@pytest.mark.parametrize("inside", [True, False], ids=["path", "container"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_job_is_bounded_by_its_group(tmp_path: Path, version: int, inside: bool) -> None:
    write(tmp_path / "proc/meminfo", "MemAvailable: 512000000 kB\n")
    line = "0::/job_7/step_0" if version == 2 else "5:cpu:/\n4:memory,hugetlb:/job_7/step_0"
    write(tmp_path / "proc/self/cgroup", f"{line}\n")
    top = tmp_path / "sys/fs/cgroup" / ("" if version == 2 else "memory")
    stat = "anon 1\ninactive_file 5\nactive_file 7\n" if version == 2 else "total_inactive_file 12\ncache 3\n"
    names = V2 if version == 2 else V1
    group(top / ("job_7" if inside else ""), names, str(4 * GB), 3 * GB, stat)
    if inside:  # the step itself has no limit
        group(top / "job_7/step_0", names, "max" if version == 2 else str(1 << 62), 2 * GB, stat)
    assert available_memory(tmp_path) == GB + 12


def test_a_group_that_is_full(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    group(tmp_path / "sys/fs/cgroup", V2, "10", 12, "")
    assert available_memory(tmp_path) == 0
