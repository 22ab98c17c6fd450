"""Our tokenizers as the `tokenizer.json` of Hugging Face's library, with the same ids for every text.

The pieces keep their spaces, where sentencepiece has U+2581, so that this character is spelt by its bytes, as
ours spell it. The text is cut into the same segments, by a regular expression that says what
`data_tools.tokenizer.segments` does.

A sentencepiece bpe merges what has the best score, Hugging Face's what comes first in a list: all ways to
make a piece, in the order of the pieces' scores. A unigram model cannot be converted: sentencepiece adds the
logarithms of probabilities in single precision and Hugging Face in double, so a line of 40 dashes, which may
be cut in many ways of equal probability, comes out differently.
"""

import json
import random
from pathlib import Path
from typing import Any

from data_tools.tokenizer import Tokenizer
from data_tools.tokenizers.codec import BERT_PIECES, SPACE_SYMBOL
from data_tools.tokenizers.segments import SEGMENT_CHARACTERS
from data_tools.tokenizers.trial_texts import trial_texts
from pretrain.errors import UserError, named
from pretrain.gpt.chat.conversation import Message, as_json
from pretrain.gpt.chat.template import END, FILE, ChatTemplate

OURS = "pretrain-tokenizer"
"""Folder in an export: our own tokenizer, as `Tokenizer.save` writes it, for a later import."""
_SEGMENT = (
    rf"[\s\S]{{1,{SEGMENT_CHARACTERS}}}\z"
    rf"|[\s\S]{{0,{SEGMENT_CHARACTERS - 1}}}\n"
    rf"|[\s\S]{{0,{SEGMENT_CHARACTERS - 2}}}[^ ](?= )"
    rf"|[\s\S]{{{SEGMENT_CHARACTERS}}}"
)


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    sequence_length: int,
    *,
    begins: bool,
    template: ChatTemplate | None = None,
) -> None:
    """Write what `AutoTokenizer` loads, and our own tokenizer beside it.

    Args:
        folder: the export.
        tokenizer: of any kind; one that was made elsewhere is written as it was.
        sequence_length: tokens that the model sees.
        begins: a text is encoded with the end of a document before it, as the model was trained; not for the
            texts of a BERT, which get [CLS] and [SEP].
        template: of the model's conversations.

    Raises:
        UserError: a text, or a conversation, is encoded differently.
    """
    if not tokenizer.is_ours:
        tokenizer.write_original(folder)
        if template is not None:
            with named(folder / FILE):
                (folder / FILE).write_text(template.source)
        return
    library = as_library_tokenizer(tokenizer, begins=begins)
    prove(tokenizer, library)
    library.save(str(folder / "tokenizer.json"))
    if tokenizer.bert_ids:
        names = ("pad_token", "cls_token", "sep_token", "mask_token")
        special: dict[str, Any] = dict(zip(names, BERT_PIECES, strict=True))
        # A BERT's inputs, by the names of its arguments; one that is left out here is not given to the model.
        special["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": sequence_length,
        "clean_up_tokenization_spaces": False,
        # A text that spells <|endoftext|> is a text. But a BERT is asked by writing [MASK], and what a chat
        # template renders is one text, in which the ends of turns are spelt.
        "split_special_tokens": tokenizer.bert_ids is None and template is None,
        **special,
    }
    with named(folder / "tokenizer_config.json"):
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    write_template(folder, tokenizer, template)


def write_template(folder: Path, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
    """Write the template of a model's conversations, if it has one, beside its tokenizer.

    Raises UserError if transformers makes other tokens of one.
    """
    if template is None:
        return
    with named(folder / FILE):
        (folder / FILE).write_text(template.source)
    if said := template_difference(folder, tokenizer, template):
        raise UserError(f"{template.where}: {said}; --no-tokenizer exports without template and tokenizer")


def template_difference(folder: Path, tokenizer: Tokenizer, template: ChatTemplate) -> str:
    """Render and encode conversations with both; a conversation, if any, that gets different ids.

    Raises UserError if the template fails, or transformers cannot load the tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # anything, of files that others wrote
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: transformers cannot load the tokenizer: {reason[0]}") from None
    special = (END, "\0", *tokenizer.special)
    pieces = [
        text for text in _trials(tokenizer)[:60] if text.strip() and not any(name in text for name in special)
    ]
    for first, second in zip(pieces[::2], pieces[1::2], strict=False):
        messages = [Message("user", first), Message("assistant", second), Message("user", first)]
        for count, answer in ((3, True), (2, False)):
            ours = template.tokens(tokenizer, messages[:count], answer=answer)
            found = theirs.apply_chat_template(
                as_json(messages[:count]), add_generation_prompt=answer, return_dict=False
            )
            if ours != found:
                return f"transformers makes other tokens of a conversation that begins with {first[:60]!r}"
    return ""


def why_not(tokenizer: Tokenizer) -> str | None:
    """Why Hugging Face's library cannot replace this tokenizer, if it cannot."""
    if tokenizer.model_type != "unigram":
        return None
    return (
        "the tokenizer is of type unigram, which Hugging Face's library adds up in another precision: texts "
        "with long runs of one character would get other tokens"
    )


def as_library_tokenizer(tokenizer: Tokenizer, *, begins: bool) -> Any:
    """A `tokenizers.Tokenizer`; `begins` as in `write_tokenizer`."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Library

    vocabulary, merges = _byte_model() if tokenizer.model_type == "byte" else _model(tokenizer)
    library = Library(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    library.pre_tokenizer = pre_tokenizers.Split(Regex(_SEGMENT), "isolated")
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    bert = tokenizer.bert_ids
    names = BERT_PIECES if bert else (END,)
    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if bert:
        library.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", bert.cls), ("[SEP]", bert.sep)],
        )
    elif begins:
        library.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, tokenizer.eod_id)]
        )
    return library


def _byte_model() -> tuple[dict[str, int], list[tuple[str, str]]]:
    return {**{_byte_name(value): value for value in range(256)}, END: 256}, []


def _byte_name(value: int) -> str:
    """The piece of a byte: an ASCII byte's own character, else `<0xXX>`."""
    # The library decodes neighbouring `<0xXX>` pieces as one text or not at all, so ASCII must not be among
    # them.
    return chr(value) if value < 128 else f"<0x{value:02X}>"


def _model(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces and merges of a sentencepiece bpe or char model."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    count = tokenizer.vocab_size
    pieces = [processor.id_to_piece(value).replace(SPACE_SYMBOL, " ") for value in range(count)]
    special = (processor.is_control, processor.is_byte, processor.is_unknown, processor.is_unused)
    text = {pieces[value]: value for value in range(count) if not any(kind(value) for kind in special)}
    ways = [
        (-processor.get_score(value), text[piece[:cut]], text[piece[cut:]], piece, cut)
        for piece, value in text.items()
        for cut in range(1, len(piece))
        if tokenizer.model_type == "bpe" and piece[:cut] in text and piece[cut:] in text
    ]
    merges = [(piece[:cut], piece[cut:]) for *_, piece, cut in sorted(ways)]
    for value in range(count):
        if processor.is_byte(value) and (name := _byte_name(int(pieces[value][3:5], 16))) not in text:
            pieces[value] = name
    return {piece: value for value, piece in enumerate(pieces)}, merges


def prove(tokenizer: Tokenizer, library: Any) -> None:
    """Encode some thousand texts with both.

    Raises UserError if one gives different ids, or does not come back.
    """
    library.encode_special_tokens = True
    for text in (*_trials(tokenizer), *trial_texts([])):
        ours, theirs = tokenizer.encode(text), library.encode(text, add_special_tokens=False).ids
        if ours != theirs or library.decode(theirs) != text:
            first = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len({*pair}) > 1), 0)
            raise UserError(
                f"the tokenizer cannot be had in Hugging Face's library: from token {first} on, the text "
                f"{text[:60]!r} is {ours[first : first + 4]} here and {theirs[first : first + 4]} there; "
                "--no-tokenizer exports without it"
            )
    library.encode_special_tokens = False


def _trials(tokenizer: Tokenizer) -> list[str]:
    """Texts of the tokenizer's own pieces, of few characters, of many, and peculiar ones."""
    draw = random.Random(0)
    pieces = [piece for value in range(tokenizer.vocab_size) if (piece := tokenizer.decode([value]))]
    odd = [
        "a \t\r\n",
        SPACE_SYMBOL * 2,
        f"a{SPACE_SYMBOL} b",
        "\0é漢😀",
        END,
        "<0x41>[CLS]",
        " " * 1100,
        "-" * 600,
    ]
    odd += ["\n" * 1100 + "x", "x" + " " * 600 + "y", "", "x" * 1500]
    signs = [chr(code) for code in (*range(32, 127), *range(0x2570, 0x2590))]
    for alphabet, length in ((pieces, 200), ("ab -=\n", 1500), (signs, 900)):
        odd += ["".join(draw.choices(alphabet, k=draw.randrange(1, length))) for _ in range(60)]
    return odd
