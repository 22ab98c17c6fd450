"""A failed step of a megatron model, in any layout, kept so that it can be computed again."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor
from torch.nn import Module

from pretrain.data.dataset import AnyBatch
from pretrain.distributed.world import DistContext
from pretrain.health.evidence import Evidence, Weight, look
from pretrain.health.probe import Probe, Watched, innermost, is_finite
from pretrain.megatron.pipeline import ForwardStep, LocalLoss, PipelineModel
from pretrain.megatron.sharding import parameter_shards


class TextStep:
    """The `FailedStep` of a transformer."""

    def __init__(
        self,
        model: PipelineModel,
        batches: Sequence[AnyBatch],
        local: LocalLoss,
        reseed: Callable[[], None],
        norm: Callable[[], Tensor],
    ) -> None:
        """Keep what is needed to repeat a step.

        Args:
            model: as it was in the step, with its gradients still there.
            batches: this rank's micro-batches of the step.
            local: their losses in the step.
            reseed: sets the random streams as at the start of the step.
            norm: prepares the reduced gradients and returns their norm.
        """
        self._model, self._batches, self._local = model, batches, local
        self._reseed, self._norm = reseed, norm

    @property
    def world(self) -> DistContext:
        return self._model.layout.world

    @property
    def samples(self) -> Sequence[Sequence[int]]:
        return [batch.sample_ids for batch in self._batches]

    def watched(self) -> Sequence[Watched]:
        layout, found = self._model.layout, []
        for number, chunk in enumerate(self._model.chunks):
            parameters = {part.parameter: part.key for part in parameter_shards([chunk], layout)}
            # With virtual pipeline stages, chunk n of stage p comes n x stages + p in the forward pass.
            place = number * layout.parallel.pipeline + layout.pipeline_rank
            found.append(Watched(_numbered(chunk), parameters, place))
        return found

    def look(self) -> Evidence:
        bad = [not is_finite(loss) for loss in self._local.micro_batches]
        # Not strict: only ranks of the last pipeline stage have losses.
        losses = [batch.sample_ids for batch, is_bad in zip(self._batches, bad, strict=False) if is_bad]
        return look(self._model.layout.data_rank, self._weights(), losses)

    def _weights(self) -> Iterator[Weight]:
        for part in parameter_shards(self._model.chunks, self._model.layout):
            parameter: Any = part.parameter
            yield Weight(part.key, part.view(parameter.view(-1)), part.view(parameter.main_grad.view(-1)))

    def replay(self, probe: Probe) -> None:
        begun = dict.fromkeys(map(id, self._model.wrapped), 0)

        def watch(forward_step: ForwardStep) -> ForwardStep:
            def watched(batches: Iterator[Any], chunk: Any) -> Any:
                micro_batch = begun[id(chunk)]
                begun[id(chunk)] += 1
                with probe.forward(micro_batch):
                    return forward_step(batches, chunk)

            return watched

        self._reseed()
        losses = self._model.replay(self._batches, watch).micro_batches
        for micro_batch, loss in enumerate(losses):
            probe.note_loss(loss, micro_batch)

    def repeats(self) -> bool:
        self._reseed()
        again = self._model.backward(self._batches)
        sums, norms, _ = again.over_world(self._norm())
        return not math.isfinite(norms + sums.loss)


def _numbered(chunk: Module) -> dict[Module, str]:
    """Modules without children, with names that have the layer's number in the whole model."""
    layers = {
        f"{name}.": f"{name.rsplit('.', 1)[0]}.{module.layer_number - 1}."
        for name, module in chunk.named_modules()
        if isinstance(module, TransformerLayer)
    }
    found = {}
    for name, module in innermost(chunk):
        prefix = next((prefix for prefix in layers if name.startswith(prefix)), "")
        found[module] = layers.get(prefix, "") + name[len(prefix) :]
    return found
