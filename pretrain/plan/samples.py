"""One micro-batch of a model family, for its shapes alone."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from pretrain.config.sections import BertConfig, DecoderConfig, GptConfig, TextConfig
from pretrain.data.batch import Batch, every_label, plain_positions
from pretrain.data.bert.batch import BertBatch
from pretrain.data.labelled.batch import LabelledBatch
from pretrain.families.finetune import FinetuneFamily
from pretrain.model import Model


def local_micro_batch(model: Model) -> Any:
    """As the model's family gives it to this rank, without numbers; in a world of fake tensors."""
    config = model.config
    if not isinstance(config, DecoderConfig):
        # Which tokens are chosen, or padding, can not be known of tensors without numbers.
        with unset_fake_temporarily():
            bert = _bert_batch(config) if isinstance(config, BertConfig) else _labelled_batch(model)
            local = model.family.localise(bert)
        fake = detect_fake_mode()
        assert fake is not None, "called in a fake world"
        return replace(
            local,
            **{
                field.name: fake.from_tensor(value)
                for field in fields(local)
                if isinstance(value := getattr(local, field.name), Tensor)
            },
        )
    return model.family.localise(_gpt_batch(config))


def _gpt_batch(config: TextConfig) -> Batch:
    rows, length = config.batch.micro_size, config.batch.sequence_length
    ids = torch.zeros(rows, length, dtype=torch.int64)
    documents = ids if isinstance(config, GptConfig) and config.data.reset_at_document_end else None
    return Batch(
        ids, ids, every_label(rows, length), plain_positions(rows, length), documents, tuple(range(rows))
    )


def _bert_batch(config: BertConfig) -> BertBatch:
    """Full rows, in which the share of the tokens that is to be predicted is spread evenly."""
    rows, length = config.batch.micro_size, config.batch.sequence_length
    ids = torch.zeros(rows, length, dtype=torch.int64)
    chosen = torch.zeros(rows, length)
    count = max(1, round(config.data.mask_probability * length))
    chosen[:, torch.linspace(0, length - 1, count).long()] = 1
    return BertBatch(
        tokens=ids,
        token_types=ids,
        labels=ids,
        loss_mask=chosen,
        masked=chosen > 0,
        padding_mask=torch.ones(rows, length, dtype=torch.bool),
        next_sentence=torch.zeros(rows, dtype=torch.int64) if config.data.nsp else torch.full((rows,), -1),
        sample_ids=tuple(range(rows)),
        frequent_token=0,
    )


def _labelled_batch(model: Model) -> LabelledBatch:
    """Full rows, of the first class."""
    family, batch = model.family, model.config.batch
    assert isinstance(family, FinetuneFamily), type(family).__name__
    ids = torch.zeros(batch.micro_size, batch.sequence_length, dtype=torch.int64)
    labels = ids if family.tagged else ids[:, 0]
    return LabelledBatch(ids, ids, torch.ones_like(ids, dtype=torch.bool), labels, tuple(range(len(ids))))


def bytes_of(local: Any) -> int:
    """Bytes of a local micro-batch, as if nothing in it were shared."""
    tensors = [getattr(local, field.name) for field in fields(local)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
