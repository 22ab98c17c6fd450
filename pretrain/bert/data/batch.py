"""One micro-batch of one rank for BERT, as torch tensors on the CPU."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BertBatch:
    """B samples of S tokens: [CLS] A [SEP] B [SEP], or [CLS] A [SEP], and padding.

    tokens: int64 [B, S], with masks in place. token_types: int64 [B, S], 0 up to the first [SEP], 1 for the
    second segment, 0 for padding. labels: int64 [B, S], the original token where one is to be predicted, else
    0. loss_mask: float32 [B, S], 1 where a token was chosen for prediction. masked: bool [B, S], where a
    chosen token reads [MASK]; the other chosen ones were replaced by a random token or left as they are.
    padding_mask: bool [B, S], True for real tokens. next_sentence: int64 [B], 0 if the second segment follows
    the first one, 1 if it comes from another document, -1 without label (`data.nsp: false`, or padding).
    sample_ids: global sample of each row, `pretrain.data.batch.PADDING_SAMPLE` for a row that only fills the
    batch and has no label. frequent_token: the most frequent token of the data, which a baseline predicts
    everywhere.
    """

    tokens: Tensor
    token_types: Tensor
    labels: Tensor
    loss_mask: Tensor
    masked: Tensor
    padding_mask: Tensor
    next_sentence: Tensor
    sample_ids: tuple[int, ...]
    frequent_token: int
