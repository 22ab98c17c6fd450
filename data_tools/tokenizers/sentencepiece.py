"""A sentencepiece `.model` from anywhere, encoded by sentencepiece itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_tools.errors import UserError
from data_tools.tokenizers.codec import BERT_PIECES, BertIds, ForeignCodec, Ids, Offsets, Roles
from data_tools.tokenizers.hf_files import BERT_ROLES, CONFIG, SPECIAL, named_tokens, read_object
from data_tools.tokenizers.own import pieces_of


class SentencePieceCodec(ForeignCodec):
    """Encoded by the library `sentencepiece`."""

    kind = "sentencepiece"
    ENDING = ".model"
    BESIDE = (CONFIG, SPECIAL, "added_tokens.json")

    def read(self, main: bytes) -> list[bytes]:
        """As `ForeignCodec.read`."""
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=main)
            proto = sentencepiece_model_pb2.ModelProto.FromString(main)
        except Exception as error:  # a damaged file raises errors of several libraries
            raise ValueError(str(error)[:200]) from None
        self.drops_space = (
            proto.normalizer_spec.add_dummy_prefix and not proto.trainer_spec.treat_whitespace_as_suffix
        )
        self._special = {
            self._processor.id_to_piece(value): value
            for value in range(self._processor.vocab_size())
            if self._processor.is_control(value)
        }
        return pieces_of(self._processor)

    def roles_from(self, files: Mapping[str, bytes], eod: str | int | None) -> Roles:
        """As `ForeignCodec.roles_from`."""
        named = {**named_tokens(SPECIAL, files), **named_tokens(CONFIG, files)}
        chosen = eod if eod is not None else named.get("eos_token", self._processor.eos_id())
        end = self._special.get(chosen, -1) if isinstance(chosen, str) else chosen
        if end < 0:
            what = (
                f"{chosen!r} is none of its"
                if isinstance(chosen, str)
                else "has no end-of-document piece; its"
            )
            raise UserError(f"{what} control pieces ({', '.join(self._special) or 'there are none'})")
        bert = [
            self._special.get(named.get(role, name))
            for role, name in zip(BERT_ROLES, BERT_PIECES, strict=True)
        ]
        begins = read_object(CONFIG, files).get("add_bos_token") is True and self._processor.bos_id() >= 0
        return Roles(
            end,
            (self._processor.bos_id(),) if begins else (),
            BertIds(*bert) if None not in bert else None,  # type: ignore[arg-type]
            self._special,
        )

    def encode(self, text: str) -> Ids:
        ids: Ids = self._processor.encode(text.encode("utf-8"), return_type="numpy")
        return ids

    def token_starts(self, text: str, ids: Ids) -> Offsets:
        found = self._processor.encode(text.encode("utf-8"), return_type="proto")
        return np.array([piece.begin for piece in found.pieces], np.int64)
