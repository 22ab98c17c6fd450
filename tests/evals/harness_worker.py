"""One rank of the harness's tests: ours, the harness's own Hugging Face backend, and plain transformers.

Argument: {"config": path or null, "run": path, "exported": path, "tasks": [task files], "output": path,
"layouts": {name: [overrides]}, "strides": {name: [shards, stride]}}. With "config" it trains first, exports,
and asks the others too.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from evals.harness.library import confined, require_harness

if __name__ == "__main__":
    os.environ["HF_HOME"] = str(Path(json.loads(sys.argv[1])["output"]).parent / "cache")
    require_harness()

import torch
from megatron.core import parallel_state

from data_tools.reader import ShardReader
from evals.config import evaluation_config
from evals.evaluate import evaluate
from evals.harness.definition import find_definitions
from evals.harness.model import CheckpointLM
from evals.harness.run import evaluate_tasks, run_harness
from evals.harness.tasks import build_task
from evals.request import EvalRequest
from pretrain.checkpoint import resolve
from pretrain.checkpoint.tokenizer import load_tokenizer
from pretrain.commands.train import train
from pretrain.config.load import load_config
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.kinds import kind_of
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.restore import load_model, open_saved_model


def ours(asked: dict[str, Any], overrides: list[str], world: DistContext) -> dict[str, Any]:
    """The result, and the answer to each request, which no result holds."""
    path = resolve(asked["run"])
    result = evaluate_tasks(path, world, asked["tasks"], None, overrides, build_parallel_dims)
    parallel_state.destroy_model_parallel()
    saved = open_saved_model(path)
    config = evaluation_config(path / "config.resolved.yaml", overrides, world.size, data=asked["tasks"])
    layout = build_parallel_dims(world, config.parallel)
    model = load_model(saved, config, layout, kind_of(config).spec(config, layout))
    with confined(show=False):
        tasks = {each.name: build_task(each) for each in find_definitions(asked["tasks"], None)}
        run_harness(CheckpointLM(model, load_tokenizer(saved.checkpoint)), tasks, 0)
    parallel_state.destroy_model_parallel()
    return {"metrics": result.metrics, "spec": result.spec, "answers": answers_of(tasks)}


def answers_of(tasks: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [one.resps[0] for one in task.instances] for name, task in tasks.items()}


def theirs(asked: dict[str, Any]) -> dict[str, Any]:
    """By nothing of ours but the exported folder: the harness finds the task files and loads the data."""
    from lm_eval.evaluator import evaluate as harness_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(Path(asked["tasks"][0]).parent), include_defaults=False)
    tasks = manager.load([*manager.all_subtasks])["tasks"]
    found: dict[str, Any] = {"metrics": {}, "answers": {}}
    # Its tokenizer puts the end of a document before a text, which rolling windows do themselves.
    for adds, names in ((None, [n for n in tasks if "rolling" not in n]), (False, ["rolling"])):
        lm = HFLM(pretrained=asked["exported"], device="cpu", batch_size=2, add_bos_token=adds)
        chosen = {name: tasks[name] for name in names}
        for task in chosen.values():
            task.set_fewshot_seed(1234)
        results = harness_evaluate(lm=lm, task_dict={"tasks": chosen}, bootstrap_iters=1000)["results"]
        found["metrics"] |= results
        found["answers"] |= answers_of(chosen)
    return found


def perplexity_by_transformers(folder: str, ids: list[int], length: int, stride: int) -> float:
    """exp of the mean loss over sliding windows, as transformers' guide to perplexity has it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    total, scored, end = 0.0, 0, 1
    begin = 0
    while end < len(ids):
        last = min(begin + length + 1, len(ids))
        window = torch.tensor([ids[begin:last]])
        with torch.no_grad():
            logits = model(window[:, :-1]).logits.double()
        losses = torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="none")
        total += float(losses[end - last :].sum())
        scored += last - end
        begin, end = begin + stride, last
    assert scored == len(ids) - 1
    return float(torch.tensor(total / scored, dtype=torch.float64).exp())


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers: dict[str, Any] = {}
    if asked["config"]:
        from pretrain.hf.exporter import export_command

        with init_distributed() as world:
            train(load_config(asked["config"], (), world.size), world)
            parallel_state.destroy_model_parallel()
        export_command(asked["run"], asked["exported"], None, tokenizer=True)
    with init_distributed() as world:
        for name, (shards, stride) in asked["strides"].items():
            result = evaluate(asked["run"], world, EvalRequest(stride, (shards,)))
            answers[name] = result.metrics["token_perplexity"]
            parallel_state.destroy_model_parallel()
            if asked["config"]:
                reader = ShardReader(shards)
                ids = reader.read(0, len(reader)).astype(int).tolist()
                length = result.spec["sequence_length"]
                answers[f"{name} by transformers"] = perplexity_by_transformers(
                    asked["exported"], ids, length, stride
                )
        for name, overrides in asked["layouts"].items():
            answers[name] = ours(asked, overrides, world)
        if asked["config"]:
            answers["theirs"] = theirs(asked)
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(answers, default=str))


if __name__ == "__main__":
    main()
