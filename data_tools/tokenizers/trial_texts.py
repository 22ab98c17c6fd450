"""Texts on which two tokenizers are compared: some thousand, the same ones each time.

Every character of the Basic Multilingual Plane is in one of them; the others are made of what tokenizers
treat specially.
"""

import random
import unicodedata
from collections.abc import Iterator, Sequence

WIDTH = 64
"""Characters of the texts that go through all characters."""
SURROGATES = range(0xD800, 0xE000)
BEYOND = (0x10000, 0x10330, 0x12000, 0x13000, 0x1D100, 0x1D400, 0x1F1E6, 0x1F300, 0x1F600, 0x20000, 0xE0000)
"""Where blocks of other planes begin: old scripts, signs of music and mathematics, flags, pictures, rare
ideographs, tags."""
SPACES = "".join(map(chr, (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029)))
SPACES += "\u202f\u205f\u3000"
CONTROLS = "".join(map(chr, (*range(32), *range(0x7F, 0xA0), 0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF)))
MARKS = "".join(chr(code) for code in range(0x300, 0x36F)) + "\u05b4\u064e\u093c\u0e34\u20e3\u3099\ufe0f"
_WORDS = (
    "word Wort mot слово λέξη מילה كلمة शब्द শব্দ சொல் คำ བོད сөз բառ სიტყვა ቃል 言葉 ことば コトバ 단어 từ "
    "ﬁne ½ ① Ⅻ ｆｕｌｌ ﷺ ™ 5Å Å Ω K e\u0301 é \u1112\u1161\u11ab 한 👩‍👩‍👧 🇩🇪 naïve don't x_1 C++ 3.14 1,000 http://a.b/?c=d"
)
_NAMES = (
    "<s> </s> <unk> <pad> <mask> <|endoftext|> <|im_start|> <|im_end|> [PAD] [CLS] [SEP] [MASK] [UNK] [INST] "
    "[/INST] <<SYS>> <0x00> <0x0A> <0xFF> <extra_id_0> <|begin_of_text|> ▁ ▁▁ Ġ Ċ ##a @@ </w>"
)
WORDS = tuple(_WORDS.split(" "))
NAMES = tuple(_NAMES.split(" "))
"""Pieces of well-known tokenizers, which a text may spell."""


def trial_texts(pieces: Sequence[str]) -> Iterator[str]:
    """The texts.

    Args:
        pieces: names of the tokenizer's own pieces, including special ones, for texts that are made of them.
    """
    codes = [code for code in range(0x10000) if code not in SURROGATES]
    codes += [code for first in BEYOND for code in range(first, first + 4 * WIDTH)]
    for start in range(0, len(codes), WIDTH):
        yield "".join(map(chr, codes[start : start + WIDTH]))
    for text in (*WORDS, *NAMES, *pieces):
        yield from (text, f" {text}", f"{text}\n", f"a{text}b", f"{text} {text}")
    draw = random.Random(0)
    for alphabet in (SPACES, CONTROLS, " ", "\n ", "\t "):
        for _ in range(100):
            yield _joined(draw, WORDS, [_drawn(draw, alphabet, 4) for _ in range(4)], draw.randrange(1, 12))
    for _ in range(300):
        letters = draw.choices("aeoncAEслאعक한" + "".join(WORDS), k=8)
        yield "".join(letter + _drawn(draw, MARKS, 3) for letter in letters)
    for _ in range(300):
        yield unicodedata.normalize(draw.choice(("NFC", "NFD", "NFKC", "NFKD")), _joined(draw, WORDS, " ", 8))
    for _ in range(300):
        yield _joined(draw, [*WORDS, *NAMES, *pieces], ["", "", " "], 8)
    for _ in range(20):  # longer than what is encoded in one go, with blank lines and indentation
        yield _joined(draw, WORDS, [" ", " ", ". ", "\n", "\n\n", "\n    ", "\r\n"], 600)


def _drawn(draw: random.Random, alphabet: str, most: int) -> str:
    return "".join(draw.choices(alphabet, k=draw.randrange(most + 1)))


def _joined(draw: random.Random, words: Sequence[str], between: Sequence[str], count: int) -> str:
    """`count` of the words, each with something between it and the next, before the first and at the end."""
    return "".join(draw.choice(between) + draw.choice(words) for _ in range(count)) + draw.choice(between)
