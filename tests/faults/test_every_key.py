"""Every key of the schema changes what is built, drawn, trained, saved or sent; none is left out here.

`SEEN` holds the keys that show in a few steps of training (`every_key_worker`): the observation that must
differ between two values, and one that must not. The others have a function of their own in `ELSEWHERE`, or
stand in `UNSEEN` with the reason why there is nothing to see.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from bad_input_commands import documents, write_run
from config_files import small_config
from loopback import serve
from mlflow_server import free_port
from small_run import config_for, open_run
from text_shards import build_shards
from torch.distributed import HashStore

from data_tools.tokenizer import Tokenizer
from data_tools.train_tokenizer import train_tokenizer
from pretrain.checkpoint import LocalCoordinator, Saver, ShardedTensor
from pretrain.checkpoint.tensors import TensorSource
from pretrain.config.load import read_config
from pretrain.config.node import dotted
from pretrain.config.schema import leaf_keys
from pretrain.config.sections import CheckpointConfig, GptConfig
from pretrain.data.sources import open_training
from pretrain.distributed.rendezvous import meet_ranks
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError, UserError
from pretrain.health.phase_timer import Moment, Phase, PhaseTimer, phase_limit
from pretrain.hf.new_run import write_run as write_weights
from pretrain.hf.registry import architecture_of
from pretrain.run.folder import RunFolder
from pretrain.tracking.send import Sender
from pretrain.training.profiling.profiler import StepProfiler

WORKER = Path(__file__).with_name("every_key_worker.py")
Keys = dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """Two values of a key, with other keys where it needs them, and where the difference shows."""

    differs: str
    first: Keys
    second: Keys
    agrees: str = ""
    """Something that must be the same, which shows that the key changes no more than it should."""


def two(key: str, differs: str, first: Any, second: Any, agrees: str = "", **also: Any) -> Effect:
    """Values of one key; `also` holds in both."""
    name = key.replace(".", "__")
    return Effect(differs, {**also, name: first}, {**also, name: second}, agrees)


OTHER_SUMS = ("parallel.distributed_optimizer", "parallel.overlap_grad_reduce")
"""Keys with which the same gradients lie in other buffers. The squares in their norm are added in another
order, which rounds otherwise on some processors, and clipping brings that into the weights."""
ROUNDING = 1e-6
"""Of a loss of three steps: 16 times the rounding of fp32. No key has so small an effect."""


def alike(first: Any, second: Any) -> bool:
    """Whether two observations differ by rounding at most."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(alike(first[name], second[name]) for name in first)
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=ROUNDING)
    return bool(first == second)


ROLL_BACK = {"health__on_spike": "rollback", "checkpoint__every": 10}
LONG = {"run__steps": 20}
LARGE = {"model__init_std": 0.5}
"""With usual weights the two forms of gelu differ by less than rounding."""
ROTARY = {"model__position_embedding": "rotary"}
SCALED = {**ROTARY, **LARGE, "model__rotary_scaling": "linear", "model__rotary_scaling_factor": 4.0}
YARN = {**SCALED, "model__rotary_scaling": "yarn", "model__rotary_original_length": 32}
ENTRIES: dict[str, tuple[Any, ...]] = {
    "run.seed": ("tokens", 1, 2),
    "run.steps": ("rates", 10, 20),
    "model.num_layers": ("parameters", 1, 2),
    "model.hidden_size": ("parameters", 32, 64),
    "model.num_attention_heads": ("losses", 1, 4, "parameters"),
    "model.num_query_groups": ("parameters", None, 1),
    "model.ffn_hidden_size": ("parameters", None, 96),
    "model.position_embedding": ("parameters", "learned", "rotary"),
    "model.rotary_base": ("losses", None, 10, "weights", {"model__position_embedding": "rotary"}),
    "model.normalization": ("parameters", "layernorm", "rmsnorm"),
    "model.norm_epsilon": ("losses", 1e-5, 0.1, "weights"),
    "model.activation": ("losses", "gelu", "gelu_tanh", "weights", LARGE),
    "model.scale_embeddings": ("losses", False, True, "weights"),
    "model.head_size": ("parameters", None, 24),
    "model.qkv_bias": ("parameters", False, True, {"model__bias": False}),
    "model.qk_norm": ("parameters", "head", "whole", {"model__normalization": "rmsnorm"}),
    "model.norm_position": ("parameters", "output", "both"),
    "model.zero_centered_norm": ("means", False, True, {"model__normalization": "rmsnorm"}),
    "model.rotary_fraction": ("losses", None, 0.5, "weights", ROTARY),
    "model.rotary_scaling": (
        "losses",
        "linear",
        "llama3",
        "weights",
        {**SCALED, "model__rotary_original_length": 32},
    ),
    "model.rotary_scaling_factor": ("losses", 2.0, 8.0, "weights", SCALED),
    "model.rotary_original_length": ("losses", 8, 128, "weights", YARN),
    "model.rotary_slow_turns": ("losses", None, 3.0, "weights", YARN),
    "model.rotary_fast_turns": (
        "losses",
        None,
        2.0,
        "weights",
        {**YARN, "model__rotary_original_length": 1024},
    ),
    "model.rotary_attention_factor": ("losses", None, 2.0, "weights", YARN),
    "model.window": ("losses", None, 4, "weights"),
    "model.window_pattern": (
        "losses",
        ["window", "full"],
        ["full", "window"],
        "weights",
        {"model__window": 4},
    ),
    "model.attention_scale": ("losses", None, 1.0, "weights", LARGE),
    "model.attention_softcap": ("losses", None, 1.0, "weights", LARGE),
    "model.logit_softcap": ("losses", None, 1.0, "weights", LARGE),
    "model.z_loss": ("losses", None, 1.0, "weights"),
    "model.bias": ("parameters", True, False),
    "model.tie_embeddings": ("parameters", True, False),
    "model.init_from": ("weights", None, "RUN"),
    "model.init_embeddings": ("weights", "pretrained", "random", {"model__init_from": "RUN"}),
    "model.dropout": ("losses", 0.0, 0.1, "weights"),
    "model.init_std": ("weights", 0.02, 0.05),
    "model.linear_init_std": ("weights", None, 0.05),
    "model.vocab_multiple": ("parameters", 128, 1),
    "batch.global_size": ("tokens", 4, 8),
    "batch.micro_size": ("micro_batches", 2, 4, "rates"),
    "batch.sequence_length": ("micro_batches", 32, 16),
    "parallel.tensor": ("megatron", 1, 2),
    "parallel.pipeline": ("megatron", 1, 2),
    "parallel.virtual_pipeline": ("megatron", None, 2, {"parallel__pipeline": 2, "model__num_layers": 4}),
    "parallel.context": ("megatron", 1, 2),
    "parallel.sequence": ("megatron", False, True, {"parallel__tensor": 2}),
    "parallel.distributed_optimizer": ("optimizer", False, True, "losses"),
    "parallel.overlap_grad_reduce": ("overlap", False, True, "losses"),
    "parallel.recompute": ("megatron", "none", "full", "losses"),
    "optimizer.lr": ("losses", 1e-3, 2e-3, "weights"),
    "optimizer.beta1": ("losses", 0.9, 0.5, "weights"),
    "optimizer.beta2": ("losses", 0.95, 0.5, "weights"),
    "optimizer.eps": ("losses", 1e-8, 1e-2, "weights"),
    "optimizer.weight_decay": ("losses", 0.0, 1.0, "weights"),
    "optimizer.clip_grad": ("losses", 0.0, 0.1, "weights", {"optimizer__eps": 1e-2}),
    "schedule.kind": ("rates", "cosine", "linear", "weights", LONG),
    "schedule.warmup_steps": ("rates", 0, 4, "weights", LONG),
    "schedule.min_lr": ("rates", None, 0.0, "weights", LONG),
    "schedule.decay_steps": ("rates", None, 10, "weights", LONG),
    "schedule.sequence_length": ("micro_batches", None, [{"until": 5, "sequence_length": 16}], "rates"),
    "schedule.batch_size": ("micro_batches", None, [{"until": 5, "global_size": 2}], "rates"),
    "schedule.warmup_tokens": ("rates", None, 512, "weights", {**LONG, "schedule__decay_tokens": 2000}),
    "schedule.decay_tokens": ("rates", None, 2000, "weights", LONG),
    "data.train": ("tokens", "SHARDS", "OTHER"),
    "data.validation": ("windows", None, ["OTHER"], "losses"),
    "data.validation_fraction": ("samples_per_epoch", None, 0.2),
    "data.tokenizer": ("refused", None, "TOKENIZER"),
    "data.reset_at_document_end": ("losses", False, True, "weights"),
    "precision": ("parameters", "fp32", "bf16"),
    "eval.max_windows": ("validation", None, 3, "losses", {"data__validation_fraction": 0.2}),
    "health.on_nonfinite": ("nonfinite", "stop", "skip", "losses"),
    "health.max_skips": ("nonfinite", 1, 3, "losses", {"health__on_nonfinite": "skip"}),
    "health.on_spike": ("spikes", "report", "rollback", "losses", {"health__spike_window": 8}),
    "health.spike_window": ("spikes", 8, 12, "losses"),
    "health.spike_threshold": ("spikes", 5.0, 1e6, "losses", {"health__spike_window": 8}),
    "health.max_rollbacks": ("rollback", 1, 2, "losses", ROLL_BACK),
}
SEEN: dict[str, Effect] = {
    key: two(key, *entry[:-1], **entry[-1]) if isinstance(entry[-1], dict) else two(key, *entry)
    for key, entry in ENTRIES.items()
}


def saver(place: Path, **settings: Any) -> Saver:
    return Saver(place, CheckpointConfig.model_validate(settings), 0, 1, LocalCoordinator())


def steps_kept(place: Path, **settings: Any) -> list[int]:
    """Steps that are there after saves of steps 1 to 6."""
    writer = saver(place, **settings)
    for step in range(1, 7):
        writer.save(step, [ShardedTensor.whole("w", torch.ones(3))], {"step": step})
    writer.close()
    return sorted(int(path.name[5:]) for path in (place / "checkpoints").glob("step-*"))


def decisions(place: Path, **keys: Any) -> list[tuple[bool, bool]]:
    """Whether to save and to validate after each step."""
    path = write_run(place, place / "shards", run__steps=6, **keys)
    with open_run(read_config(str(path)).config) as run:
        return [(run.should_save(step), run.should_validate(step)) for step in range(1, 7)]


def show_folder(place: Path) -> None:
    for name in ("one", "two"):
        with open_run(config_for(place / name, None, enabled=False)):
            assert (place / name / "config.resolved.yaml").is_file()


def show_resume(place: Path) -> None:
    steps_kept(place)
    folder = RunFolder(place)
    (place / "config.resolved.yaml").write_text("{}")
    folder.create_or_open("{}", "{}", "auto").lock.release()
    with pytest.raises(UserError, match=r"run\.resume: never, but .* holds checkpoints"):
        folder.create_or_open("{}", "{}", "never")


def show_every(place: Path) -> None:
    assert [save for save, _ in decisions(place / "a")] == [False] * 5 + [True]
    assert [save for save, _ in decisions(place / "b", checkpoint__every=2)] == [False, True] * 3


def show_keep_last(place: Path) -> None:
    assert steps_kept(place / "a", keep_last=1) == [6]
    assert steps_kept(place / "b", keep_last=3) == [4, 5, 6]


def show_keep_every(place: Path) -> None:
    assert steps_kept(place / "a", keep_last=1) == [6]
    assert steps_kept(place / "b", keep_last=1, keep_every=2) == [2, 4, 6]


def show_async(place: Path) -> None:
    """A save in the background has no report yet when it is asked for."""
    for asynchronous in (False, True):
        writer = saver(place / str(asynchronous), **{"async": asynchronous})
        report = writer.save(1, [ShardedTensor.whole("w", torch.ones(3))], {"step": 1})
        assert (report is None) == asynchronous
        writer.close()


def show_max_failures(place: Path) -> None:
    for most in (1, 3):
        (place / str(most)).mkdir(parents=True)
        (place / str(most) / "checkpoints").write_text("in the way")
        writer = saver(place / str(most), max_failures=most)
        for _ in range(most - 1):
            writer.save(1, [ShardedTensor.whole("w", torch.ones(3))], {})
        with pytest.raises(UserError, match=f"max_failures: {most}"):
            writer.save(1, [ShardedTensor.whole("w", torch.ones(3))], {})


def show_eval_every(place: Path) -> None:
    assert [validate for _, validate in decisions(place / "a")] == [False] * 5 + [True]
    assert [validate for _, validate in decisions(place / "b", eval__every=3)] == [False, False, True] * 2


def show_cache_dir(place: Path) -> None:
    """A shard by URL lies there once it is read."""
    shards = build_shards(place / "served" / "shards", ["abc " * 50] * 3)
    with serve(place / "served") as server:
        for name in ("a", "b"):
            config = small_config(data={"train": f"{server.url}/shards", "cache_dir": str(place / name)})
            [source] = open_training(config)
            source.reader.read(0, 4)
            [kept] = (place / name).glob("*.tar")
            assert kept.read_bytes() == (shards / "000000-000.tar").read_bytes()


def show_cache_bytes(place: Path) -> None:
    """No more of them lie there."""
    shards = build_shards(place / "served" / "shards", ["abc " * 50] * 3)
    size = max(path.stat().st_size for path in shards.glob("*.tar"))
    with serve(place / "served") as server:
        for limit, count in ((3 * size, 3), (size, 1)):
            data = {
                "train": f"{server.url}/shards",
                "cache_dir": str(place / str(limit)),
                "cache_bytes": limit,
            }
            [source] = open_training(small_config(data=data))
            source.reader.read(0, len(source.reader))
            assert len(list((place / str(limit)).glob("*.tar"))) == count


def show_enabled(place: Path) -> None:
    for enabled in (False, True):
        with mock.patch("pretrain.training.session.UploaderProcess") as uploader:
            with open_run(config_for(place / str(enabled), None, enabled=enabled)) as run:
                run.begin(0)
            assert uploader.called == enabled


def sender(place: Path, **tracking: Any) -> Sender:
    with open_run(config_for(place, tracking.pop("uri", None), enabled=False, **tracking)) as run:
        run.begin(0)
    return Sender(RunFolder(place))


def show_uri(place: Path) -> None:
    found = [sender(place / uri[:4], uri=uri).uri for uri in ("http://a:1", "sqlite:////b.db")]
    assert found == ["http://a:1", "sqlite:////b.db"]


def show_experiment(place: Path) -> None:
    for name in ("one", "two"):
        assert sender(place / name, experiment=name)._settings["experiment"] == name


def show_replica_check(place: Path) -> None:
    from pretrain.commands.train import _Loop

    def checked(every: int | None) -> list[int]:
        health = SimpleNamespace(replica_check_every=every)
        loop = SimpleNamespace(config=SimpleNamespace(health=health), world=SimpleNamespace(size=2))
        return [step for step in range(1, 7) if _Loop.should_compare(loop, step, step == 5)]  # type: ignore[arg-type]

    assert [checked(every) for every in (None, 0, 3)] == [[5], [], [3, 5, 6]]


SLURM: dict[str, tuple[Any, Any, Keys]] = {
    "partition": (None, "gpu", {}),
    "account": (None, "lab", {}),
    "qos": (None, "high", {}),
    "nodes": (2, 3, {}),
    "gpus_per_node": (None, 8, {}),
    "tasks_per_node": (None, 8, {}),
    "cpus_per_task": (None, 4, {}),
    "memory": (None, "0", {}),
    "exclusive": (False, True, {}),
    "time": (None, "12:00:00", {}),
    "signal_seconds": (None, 600, {}),
    "constraint": (None, "h100", {}),
    "exclude": (None, "n[1-3]", {}),
    "comment": (None, "mine", {}),
    "directives": ([], ["--mail-type=END"], {}),
    "modules": ([], ["cuda"], {}),
    "environment": ([], ["A=b"], {}),
    "python": (None, "/usr/bin/python3", {}),
    "container": ("pyxis", "apptainer", {"slurm__container_image": "a.sif"}),
    "container_image": ("a.sif", "b.sif", {"slurm__container": "apptainer"}),
    "container_mounts": ([], ["/usr"], {"slurm__container": "apptainer", "slurm__container_image": "a.sif"}),
    "requeue": (True, False, {}),
    "chain": (None, 3, {"slurm__requeue": False}),
    "preflight": (True, False, {}),
}


def show_slurm(place: Path, key: str) -> None:
    """A key of the section shows in the script."""
    from slurm.render import render
    from slurm.submit import training_job
    from slurm.tasks import tasks_of

    first, second, also = SLURM[key]
    scripts = []
    for value in (first, second):
        keys = also if value is None else {**also, f"slurm__{key}": value}
        config = read_config(str(write_run(place, place / "shards", **keys))).config
        tasks = tasks_of(config.slurm, config.replica_ranks)
        scripts.append(render("train.sbatch.j2", training_job(config, tasks, place)))
    assert scripts[0] != scripts[1]


def show_max_restarts(place: Path) -> None:
    from slurm.submission import Attempt
    from slurm.verdict import before

    attempts = [Attempt("1", restart, ("n1",), restart, 0.0) for restart in range(3)]
    assert [before(attempts, most).code for most in (1, 2)] == [4, 0]


def show_profile(place: Path) -> None:
    world = DistContext(0, 1, 0, torch.device("cpu"), HashStore())
    for steps in (None, 2):
        profiler = StepProfiler(steps, place / str(steps), PhaseTimer(), world)
        told = []
        for step in range(1, 8):
            profiler.before(step, 7)
            told.append(bool(profiler.after(step)))
        assert told == [steps == 2 and step == 6 for step in range(1, 8)]
        assert (place / str(steps)).exists() == (steps == 2)


def show_hang_timeout(place: Path) -> None:
    moment = Moment(9, Phase.DATA, 0, 0.0)
    assert [phase_limit(timeout, moment, 1.0) for timeout in (None, 5, 0)] == [120, 5, float("inf")]
    with open_run(config_for(place, None, enabled=False)) as run:
        assert run._job is not None and run._job.timeout is None


def show_join_timeout(place: Path) -> None:
    for seconds in (0.1, 0.2):
        config = small_config(health={"join_timeout": seconds})
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        text = f"rank 1 of 2 did not come within {seconds:g} s"
        with mock.patch.dict(os.environ, address), pytest.raises(HealthError, match=text):
            meet_ranks(0, 2, config.health.join_timeout, lambda: 0)


ELSEWHERE: dict[str, Callable[[Path], None]] = {
    "slurm.max_restarts": show_max_restarts,
    **{f"slurm.{key}": partial(show_slurm, key=key) for key in SLURM},
    "run.dir": show_folder,
    "run.resume": show_resume,
    "checkpoint.every": show_every,
    "checkpoint.keep_last": show_keep_last,
    "checkpoint.keep_every": show_keep_every,
    "checkpoint.async": show_async,
    "checkpoint.max_failures": show_max_failures,
    "data.cache_dir": show_cache_dir,
    "data.cache_bytes": show_cache_bytes,
    "eval.every": show_eval_every,
    "train.profile": show_profile,
    "tracking.enabled": show_enabled,
    "tracking.uri": show_uri,
    "tracking.experiment": show_experiment,
    "health.replica_check_every": show_replica_check,
    "health.hang_timeout": show_hang_timeout,
    "health.join_timeout": show_join_timeout,
}


def started_run(place: Path, shards: Path) -> Path:
    """A run with a checkpoint in which every weight is a half."""
    config = read_config(str(write_run(place.with_name("other-run"), shards))).config
    tokenizer = Tokenizer.load(shards / "tokenizer")
    sources = []
    for link in architecture_of(config).links(config, tokenizer.vocab_size):  # type: ignore[arg-type]
        whole = torch.full_like(link.join([torch.empty(shape) for shape in link.shapes]), 0.5)
        sources.append(TensorSource.of(link.key, whole.contiguous()))
    place.mkdir()
    write_weights(place, "a test", config, tokenizer.vocab_size, sources, tokenizer)
    return place


UNSEEN = {
    "model.kind": "there is one family so far, and any other name is refused (test_config_load)",
    "optimizer.kind": "there is one so far; another one trains and resumes in test_extension",
}


def test_every_key_has_an_entry() -> None:
    entries = [*SEEN, *ELSEWHERE, *UNSEEN]
    assert sorted(entries) == sorted(dotted(path) for path, _ in leaf_keys(GptConfig))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Observations of both configs of every entry, made by one process."""
    folder = tmp_path_factory.mktemp("every-key")
    places = {"SHARDS": folder / "shards", "OTHER": folder / "other", "TOKENIZER": folder / "tokenizer"}
    build_shards(places["SHARDS"], documents(40))
    build_shards(places["OTHER"], documents(60)[40:])
    train_tokenizer(documents(40), "char").save(places["TOKENIZER"])
    places["RUN"] = started_run(folder / "run", places["SHARDS"])

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(item) for item in value]
        return str(places[value]) if isinstance(value, str) and value in places else value

    configs = {}
    for key, effect in SEEN.items():
        for which, keys in (("first", effect.first), ("second", effect.second)):
            name = f"{key} {which}"
            changes = {name: placed(value) for name, value in keys.items()}
            configs[name] = str(write_run(folder / name.replace(" ", "-"), places["SHARDS"], **changes))
    argument = json.dumps({"output": str(folder / "seen.json"), "configs": configs})
    command = [sys.executable, str(WORKER), argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("key", SEEN)
def test_key_shows_in_training(seen: dict[str, Any], key: str) -> None:
    effect, first, second = SEEN[key], seen[f"{key} first"], seen[f"{key} second"]
    assert effect.differs in first or effect.differs in second
    assert not alike(first.get(effect.differs), second.get(effect.differs)), first.get(effect.differs)
    if effect.agrees and key in OTHER_SUMS:
        assert alike(first[effect.agrees], second[effect.agrees])
    elif effect.agrees:
        assert first[effect.agrees] == second[effect.agrees]


@pytest.mark.slow
def test_initial_weights_deviate_as_their_kind_does(seen: dict[str, Any]) -> None:
    """0.02; in matrices that write into the residual stream divided by the root of twice the two layers."""
    for name, std, linear in (
        ("optimizer.lr first", 0.02, 0.02),
        ("model.linear_init_std second", 0.02, 0.05),
        ("model.init_std second", 0.05, 0.05),
    ):
        shapes = {key: shape for key, (shape, _) in seen[name]["parameters"].items()}
        for key, found in seen[name]["weights"].items():
            writes = key.endswith(("linear_proj.weight", "linear_fc2.weight"))
            matrix = len(shapes[key]) > 1
            expected = std if "embeddings" in key else linear / 2 if writes else linear if matrix else 0.0
            error = 5 / math.sqrt(2 * math.prod(shapes[key]))  # five standard errors of a deviation
            assert found == pytest.approx(expected, rel=error), (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("key", ELSEWHERE)
def test_key_shows_elsewhere(tmp_path: Path, key: str) -> None:
    ELSEWHERE[key](tmp_path)
