"""Trains a tokenizer on text.

The training is deterministic, without normalisation, and leaves a token for every byte.
"""

import io
import random
import re
from collections.abc import Iterable, Iterator

from data_tools.bad_records import BadRecord, check_skipped
from data_tools.errors import UserError
from data_tools.partition import make_partitions
from data_tools.progress import Progress
from data_tools.records import ReadOptions, check_read_options, read_documents
from data_tools.sources import InputFile
from data_tools.tokenizer import Tokenizer, byte_tokenizer, own_tokenizer
from data_tools.tokenizers.codec import BERT_PIECES
from data_tools.tokenizers.own import MODEL_TYPES
from data_tools.train_wordpiece import train_wordpiece

BYTE_VOCAB_SIZE = 257
WORDPIECE, WORDPIECE_IDS = "wordpiece", 30_522
"""The kind that BERT has, and how many ids its uncased one has."""
RESERVED = 258  # 256 bytes, the unknown piece (never used) and the end of a document
LINE_CHARACTERS = 1024
SAMPLE_LINES = 1_000_000
# Never learnt as part of a piece: newline, return and tab (which the trainer uses or strips), NUL and the two
# symbols that sentencepiece uses itself. In a text each of them is encoded as its bytes.
SEPARATORS = re.compile("[\n\r\t\x00\u2581\u2585]+")


def training_texts(
    files: tuple[InputFile, ...], options: ReadOptions, most: int, skipped: list[BadRecord]
) -> Iterator[str]:
    """The text of the input files in parts. Bad records go to `skipped`; raises UserError for more than
    `most`."""
    check_read_options(options, files)
    with Progress("reading text", sum(file.size for file in files), "B") as progress:
        for partition in make_partitions(files, options.document):
            for unit in partition.units:
                for record in read_documents(unit, options):
                    if isinstance(record, BadRecord):
                        skipped.append(record)
                        check_skipped(skipped, most)
                        continue
                    yield from record.parts
                progress.advance(unit.weight)


def train_tokenizer(
    texts: Iterable[str],
    model_type: str,
    vocab_size: int | None = None,
    sample_lines: int = SAMPLE_LINES,
    *,
    bert: bool = False,
    cased: bool = False,
) -> Tokenizer:
    """Train on texts; the same texts give the same tokenizer.

    At most `sample_lines` lines are used, drawn evenly from all of them. `vocab_size` counts every id,
    including the 256 bytes and the end of a document; None is allowed for char (all characters) and byte.
    `bert` adds its special pieces, which take 4 of the ids. `cased` is for wordpiece alone, which has BERT's
    pieces anyway. Raises UserError if the text cannot give that
    many pieces, naming the largest possible number.
    """
    if model_type not in (*MODEL_TYPES, WORDPIECE):
        raise UserError(f"--model-type {model_type}: known are {', '.join(MODEL_TYPES)}, {WORDPIECE}")
    if cased and model_type != WORDPIECE:
        raise UserError(f"--cased: has no effect on --model-type {model_type}, which keeps every text")
    special = list(BERT_PIECES) if bert else []
    if model_type == "byte":
        if bert:
            raise UserError("--bert: a byte tokenizer has no room for [MASK]; take bpe, unigram or char")
        if vocab_size not in (None, BYTE_VOCAB_SIZE):
            raise UserError(f"--vocab-size {vocab_size}: a byte tokenizer always has {BYTE_VOCAB_SIZE}")
        return byte_tokenizer()
    lines = sample(training_lines(texts), sample_lines)
    if not lines:
        raise UserError("--input: there is no text to train a tokenizer on")
    if model_type == WORDPIECE:
        if bert:
            raise UserError(f"--bert: has no effect on --model-type {WORDPIECE}, which always is BERT's")
        return train_wordpiece(lines, vocab_size or WORDPIECE_IDS, cased=cased)
    reserved = RESERVED + len(special)
    if vocab_size is not None and vocab_size <= reserved:
        raise UserError(
            f"--vocab-size {vocab_size}: at least {reserved + 1}: bytes and specials take {reserved} ids"
        )
    if model_type == "char":
        return _char_tokenizer(lines, vocab_size, special)
    if vocab_size is None:
        raise UserError(f"--vocab-size is needed for --model-type {model_type}")
    return own_tokenizer(model_type, _train(lines, model_type, vocab_size, special))


def _char_tokenizer(lines: list[str], vocab_size: int | None, special: list[str]) -> Tokenizer:
    """One id per character of the lines, or of the most frequent ones if `vocab_size` is less."""
    everything = RESERVED + len(special) + len(set().union(*lines)) + 1
    tokenizer = own_tokenizer(
        "char", _train(lines, "char", min(vocab_size or everything, everything), special)
    )
    if vocab_size is not None and tokenizer.vocab_size < vocab_size:
        raise UserError(_explain_largest(vocab_size, tokenizer.vocab_size))
    return tokenizer


def training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Texts cut into lines of at most `LINE_CHARACTERS`, without the separators."""
    for text in texts:
        for line in SEPARATORS.split(text):
            for start in range(0, len(line), LINE_CHARACTERS):
                part = line[start : start + LINE_CHARACTERS]
                if part.strip():
                    yield part


def sample(lines: Iterable[str], most: int) -> list[str]:
    """At most `most` lines, each equally likely; the seed is fixed.

    Reservoir sampling: Vitter 1985, algorithm R.
    """
    generator = random.Random(0)
    kept: list[str] = []
    for count, line in enumerate(lines):
        if count < most:
            kept.append(line)
        else:
            slot = generator.randrange(count + 1)
            if slot < most:
                kept[slot] = line
    return kept


def _train(lines: list[str], model_type: str, vocab_size: int, special: list[str]) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            character_coverage=1.0 if model_type == "char" else 0.9995,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            control_symbols=special,
            eos_piece="<|endoftext|>",
            max_sentence_length=8 * LINE_CHARACTERS,
            num_threads=4,  # fixed, since the number of threads changes the result of unigram training
            minloglevel=3,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(_explain(str(error), model_type, vocab_size)) from None
    return model.getvalue()


def _explain_largest(vocab_size: int, largest: int) -> str:
    return f"--vocab-size {vocab_size}: too large for this text; the largest possible is {largest}"


def _explain(message: str, model_type: str, vocab_size: int) -> str:
    largest = re.search(r"set it to a value <= (\d+)", message)
    if largest:
        return _explain_largest(vocab_size, int(largest[1]))
    smallest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if smallest:
        return f"--vocab-size {vocab_size}: too small for this text; the smallest possible is {smallest[1]}"
    return f"sentencepiece could not train a {model_type} model of {vocab_size}: {message.strip()}"
