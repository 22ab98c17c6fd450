"""The kinds of tokenizer that were made elsewhere: a new one is a file with a `ForeignCodec` and a line."""

from data_tools.tokenizers.codec import ForeignCodec
from data_tools.tokenizers.huggingface import HuggingFaceCodec
from data_tools.tokenizers.sentencepiece import SentencePieceCodec
from data_tools.tokenizers.tiktoken import TiktokenCodec

KINDS: tuple[type[ForeignCodec], ...] = (HuggingFaceCodec, SentencePieceCodec, TiktokenCodec)
"""In a folder with files of several kinds, the first is taken, as transformers does."""
