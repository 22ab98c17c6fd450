"""A bidirectional encoder on megatron-core: embeddings and layers, without heads.

megatron's own BertModel computes logits at every position, and fixes the norm of its head and the form of its
mask. This one is made of the same parts.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnMaskType, ModelType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.derived import padded_vocab_size, rotary_base
from pretrain.config.sections import EncoderModelConfig, TextConfig
from pretrain.megatron.layers.norm import PostNormResidual, norm_class
from pretrain.megatron.layers.transformer import layer_spec, parameter_dtype, transformer_config
from pretrain.megatron.parallel_dims import ParallelDims

TOKEN_TYPES = 2
E = TypeVar("E", bound="Encoder")


class Encoder(LanguageModule, ABC):  # type: ignore[misc]
    """A bidirectional encoder; subclasses add the heads.

    Heads are replicated over tensor parallel ranks and see whole sequences, also under sequence parallelism.

    Shape legend: B micro-batch, S local sequence, H hidden, M chosen positions, V local padded vocabulary.

    Args:
        config: megatron-core's.
        run: the run's config.
        true_vocab_size: ids of the tokenizer, without padding.
        tensor_rank: of this rank.
        pre_process: whether this chunk embeds.
        post_process: whether this chunk has the heads.
        vp_stage: number of this chunk on its stage; None without virtual pipeline.
    """

    ties_embeddings = False
    """Whether the heads use the token embedding's weight."""

    def __init__(
        self,
        config: TransformerConfig,
        run: TextConfig,
        *,
        true_vocab_size: int,
        tensor_rank: int,
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None,
    ) -> None:
        super().__init__(config=config)
        model = run.model
        assert isinstance(model, EncoderModelConfig), model.kind
        self.model_type = ModelType.encoder_or_decoder
        self.true_vocab_size, self.tensor_rank = true_vocab_size, tensor_rank
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.share_embeddings_and_output_weights = self.ties_embeddings
        rows = padded_vocab_size(true_vocab_size, model.vocab_multiple)
        rotary = model.position_embedding == "rotary"
        if pre_process:
            kind = "rope" if rotary else "learned_absolute"
            self.embedding = LanguageModelEmbedding(
                config, rows, run.batch.sequence_length, kind, num_tokentypes=TOKEN_TYPES
            )
            if model.norm_position == "post":
                # BERT normalises the embeddings before their dropout, and megatron's embedding has no slot
                # for that.
                norm = norm_class(model)(config, config.hidden_size, config.layernorm_epsilon)
                dropout = self.embedding.embedding_dropout
                self.embedding.embedding_dropout = torch.nn.Sequential(
                    OrderedDict(norm=norm, dropout=dropout)
                )
        self.rotary_positions = (
            RotaryEmbedding(
                config.kv_channels,
                rotary_percent=1.0,
                rotary_base=rotary_base(model),
                use_cpu_initialization=config.use_cpu_initialization,
            )
            if rotary
            else None
        )
        self.encoder = TransformerBlock(
            config,
            _block_spec(model, config, vp_stage),
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )
        if post_process:
            self.build_heads(run, rows)
        if self.share_embeddings_and_output_weights and (pre_process or post_process):
            self.setup_embeddings_and_output_layer()

    @abstractmethod
    def build_heads(self, run: Any, rows: int) -> None:
        """Create what follows the last layer; `rows` is the padded size of the vocabulary."""

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        """Take the output of the stage before; megatron's schedules call this."""
        self.encoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

    def encode(
        self,
        tokens_BS: Tensor,
        token_types_BS: Tensor,
        position_ids_BS: Tensor,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Hidden states [S, B, H]; those of the last chunk are of the whole sequence on every rank."""
        embedded = self.embedding(tokens_BS, position_ids_BS, token_types_BS) if self.pre_process else None
        rotary = None
        if self.rotary_positions is not None:
            rotary = self.rotary_positions(tokens_BS.shape[1] * self.config.context_parallel_size)
        hidden_SBH: Tensor = self.encoder(embedded, attention_mask, rotary_pos_emb=rotary)
        if self.post_process and self.config.sequence_parallel:
            # Every rank computes the same heads, so each already has the whole gradient of what it gathered.
            hidden_SBH = gather_from_sequence_parallel_region(hidden_SBH, tensor_parallel_output_grad=False)
        return hidden_SBH


def _block_spec(
    model: EncoderModelConfig, config: TransformerConfig, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """Layers with the norms where `model.norm_position` says."""
    norm = norm_class(model)
    spec = layer_spec(model, config, AttnMaskType.padding)
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    if model.norm_position == "pre":
        return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm)
    slots = spec.submodules
    slots.input_layernorm = slots.pre_mlp_layernorm = IdentityOp
    slots.self_attn_bda = slots.mlp_bda = ModuleSpec(PostNormResidual, {"norm": norm, "config": config})
    return TransformerBlockSubmodules(layer_specs=[spec] * layers)


def build_chunks(
    make: Callable[..., E], config: TextConfig, layout: ParallelDims
) -> tuple[list[E], TransformerConfig]:
    """This rank's chunks of an encoder, on its device, with weights not yet set.

    Args:
        make: makes a chunk: the class, with the arguments that are not given here.
        config: the run's config.
    """
    megatron = transformer_config(config, layout.device)
    chunks = [
        make(
            megatron,
            config,
            tensor_rank=layout.tensor_rank,
            pre_process=layout.is_first_stage and chunk == 0,
            post_process=layout.is_last_stage and chunk == layout.chunks - 1,
            vp_stage=chunk if layout.parallel.virtual_pipeline else None,
        ).to(device=layout.device, dtype=parameter_dtype(config))
        for chunk in range(layout.chunks)
    ]
    return chunks, megatron
