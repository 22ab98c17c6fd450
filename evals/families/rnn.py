"""The perplexity of a recurrent model over parallel streams of text, each read from front to back."""

from dataclasses import astuple
from pathlib import Path

from data_tools.progress import Progress
from data_tools.sources import absolute
from evals.config import recurrent_config
from evals.perplexity import DEFINITIONS as PERPLEXITIES
from evals.perplexity import perplexities, standard_error
from evals.request import EvalRequest
from evals.result import Result, spec_of
from evals.text import TextSize, text_size
from pretrain.data.sources import open_whole, shard_cache
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.megatron.restore import RESOLVED_CONFIG
from pretrain.rnn.data import LaneData
from pretrain.rnn.score import load_rnn, score_lanes

DEFINITIONS = {name: text for name, text in PERPLEXITIES.items() if name != "window"} | {
    "NLL": "sum of -ln p(token | tokens before it in its lane) over the scored tokens, in nats, from float32 "
    "losses summed in float64",
    "lane": "one of `lanes` parts of a source, read from front to back by one state that begins empty",
}


def evaluate_rnn(path: Path, world: DistContext, request: EvalRequest) -> Result:
    """Score a recurrent model, all ranks together; the same result on every rank.

    Raises UserError for shards that were built with another tokenizer.
    """
    data = request.data
    config = recurrent_config(path / RESOLVED_CONFIG, request.overrides, data=data)
    saved = load_rnn(path, world.device)
    fingerprint = saved.tokenizer.fingerprint
    if data:
        lanes = LaneData.over(open_whole(data, fingerprint, "--data", shard_cache(config.data)), config)
    else:
        found = LaneData.from_config(config, fingerprint)
        if found is None:
            raise UserError("the run has no validation data; name shards to score with --data DIR")
        lanes = found
    micro_size = config.batch.micro_size
    with Progress("scoring", lanes.batches(world.size, micro_size), "batches") as progress:
        advance = progress.advance if world.is_first else lambda _: None
        scored = score_lanes(saved.model, lanes, world, micro_size, advance)
    if scored.tokens != lanes.tokens:
        raise RuntimeError(f"scored {scored.tokens} labels of {lanes.tokens}")
    ranges = [(each.source.reader, *each.labels) for each in lanes.lanes]
    size = broadcast_from_rank0(world, lambda: astuple(text_size(ranges, saved.tokenizer)))
    spec = {
        **spec_of("perplexity", DEFINITIONS, saved.checkpoint, world),
        **saved.tokenizer.facts,
        "data": [
            {
                "path": absolute(each.source.path),
                **each.source.describe(),
                "scored": list(each.labels),
                "lanes": each.count,
            }
            for each in lanes.lanes
        ],
        "max_windows": config.eval.max_windows,
        "sequence_length": config.batch.sequence_length,
        "precision": config.precision,
        "micro_size": micro_size,
        "seed": config.run.seed,
        "summary": f"scored {', '.join(each.source.path for each in lanes.lanes)} in "
        f"{sum(each.count for each in lanes.lanes)} lanes; {config.precision} on {world.device.type}",
    }
    error = standard_error(scored.nll, scored.squares, scored.tokens)
    metrics = perplexities(scored.nll, scored.tokens, TextSize(*size)) | {"validation_loss_error": error}
    return Result(str(path), saved.checkpoint.step, metrics, spec)
