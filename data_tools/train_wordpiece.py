"""Trains BERT's kind of tokenizer (Devlin et al. 2019): words in pieces, without the spaces between them.

It is written as transformers writes it, and so is one of the kinds that were made elsewhere.
"""

import json
from collections.abc import Sequence

from data_tools.errors import UserError
from data_tools.tokenizer import Tokenizer
from data_tools.tokenizers.codec import BERT_PIECES, Settings
from data_tools.tokenizers.hf_files import BERT_ROLES, CONFIG
from data_tools.tokenizers.huggingface import HuggingFaceCodec
from data_tools.tokenizers.trial import try_out

UNKNOWN, PREFIX = "[UNK]", "##"
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(lines: Sequence[str], vocab_size: int, *, cased: bool) -> Tokenizer:
    """Train on lines; the same lines give the same tokenizer.

    Args:
        lines: without newlines.
        vocab_size: ids, with the 5 special ones.
        cased: keep capitals and accents, which the original's uncased kind drops.

    Raises:
        UserError: the text cannot give that many pieces; names the largest possible number.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    library = Library(models.WordPiece(unk_token=UNKNOWN))
    library.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers the letters within words in an order that changes from run to run, unless they are
    # given to it as pieces that exist.
    words = {
        word
        for line in lines
        for word, _ in library.pre_tokenizer.pre_tokenize_str(library.normalizer.normalize_str(line))
    }
    letters = sorted({f"{PREFIX}{letter}" for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL, *letters], show_progress=False
    )
    library.train_from_iterator(lines, trainer)
    vocabulary = library.get_vocab()
    library = Library(models.WordPiece(vocab=vocabulary, unk_token=UNKNOWN))
    library.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix=PREFIX)
    library.add_special_tokens(list(SPECIAL))
    if (found := library.get_vocab_size()) != vocab_size:
        which = "large" if found < vocab_size else "small"
        edge = "largest" if found < vocab_size else "smallest"
        raise UserError(
            f"--vocab-size {vocab_size}: too {which} for this text; the {edge} possible is {found}"
        )
    cls, sep = ((name, SPECIAL.index(name)) for name in ("[CLS]", "[SEP]"))
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[cls, sep]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        **dict(zip(BERT_ROLES, BERT_PIECES, strict=True)),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    files = {
        HuggingFaceCodec.MAIN: library.to_str(pretty=True).encode(),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
    }
    codec = HuggingFaceCodec(HuggingFaceCodec.MAIN, files, Settings())
    try_out(codec)
    return Tokenizer(codec)
