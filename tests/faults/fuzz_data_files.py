"""Readers of what users bring, each with a good folder: texts, pictures, tokenizers, shards, suites."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import yaml
import zstandard
from fuzzing import BOTH, Reader, damaged_bytes, damaged_json
from image_shards import build_image_shards
from PIL import Image
from shard_files import refit
from text_shards import build_shards

from data_tools.bad_records import BadRecord
from data_tools.clean.report import CleanReport, read_report
from data_tools.images.pixels import BadImage, read_square
from data_tools.images.reader import ImageReader
from data_tools.images.records import ImageColumns, read_labels, read_pictures
from data_tools.images.sources import ImageFile
from data_tools.images.verify import verify_images
from data_tools.partition import Unit, make_partitions
from data_tools.reader import ShardReader
from data_tools.records import ReadOptions, read_documents
from data_tools.sources import InputFile
from data_tools.tokenizer import Tokenizer, byte_tokenizer
from data_tools.train_tokenizer import train_tokenizer
from data_tools.verify import verify as verify_shards
from evals.harness.examples import _read as read_lines_of
from evals.harness.task_file import read_task_file
from evals.images.extractors import InceptionExtractor
from evals.suite import load_suite
from pretrain.bert.finetune.data.conll import read_conll
from pretrain.config.load import read_config
from pretrain.config.sections import ChatDataConfig
from pretrain.data.table import read_table
from pretrain.errors import IntegrityError, UserError
from pretrain.gpt.chat.conversation import read_conversations
from pretrain.gpt.chat.template import DEFAULT, ChatTemplate
from pretrain.hf.foreign_tokenizer import find_tokenizer
from pretrain.hf.tokenizer import as_library_tokenizer

WORDS = "the quick brown fox jumps over the lazy dog and runs away from it"
TEXTS = [f"{WORDS} {number}\n" for number in range(40)]


def texts(good: Path) -> Reader:
    """Documents in every format."""
    good.mkdir()
    lines = b"".join(json.dumps({"text": text, "n": 1}).encode() + b"\n" for text in TEXTS)
    contents = {
        "a.txt": "".join(TEXTS).encode(),
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines, mtime=0),
        "a.jsonl.zst": zstandard.compress(lines),
        "a.txt.zst": zstandard.compress("".join(TEXTS).encode()),
    }
    for name, content in contents.items():
        (good / name).write_bytes(content)

    def read(folder: Path) -> None:
        bad = 0
        for name in contents:
            kind, packed = name.split(".")[1], name.split(".")[2] if name.count(".") == 2 else None
            file = InputFile(str(folder / name), 0, kind, packed, "")
            for document in ("file", "line", "blank-line") if kind == "txt" else ("file",):
                bad += _documents(file, ReadOptions(document=document))
        if bad:
            raise UserError(f"{folder}: {bad} bad records")

    return Reader("texts", tuple(contents), read, BOTH)


def _documents(file: InputFile, options: ReadOptions) -> int:
    bad = 0
    for partition in make_partitions((file,), options.document):
        for unit in partition.units:
            for found in read_documents(unit, options):
                if isinstance(found, BadRecord):
                    assert file.url in str(found) and "\n" not in found.reason, found
                    bad += 1
                else:
                    "".join(found.parts).encode()
    return bad


def text_parquet(good: Path) -> Reader:
    """Texts in rows of parquet, in several row groups."""
    good.mkdir()
    table = pyarrow.table({"text": TEXTS, "n": list(range(len(TEXTS)))})
    pyarrow.parquet.write_table(table, good / "a.parquet", row_group_size=16)

    def read(folder: Path) -> None:
        size = (folder / "a.parquet").stat().st_size
        if bad := _documents(InputFile(str(folder / "a.parquet"), size, "parquet", None, ""), ReadOptions()):
            raise UserError(f"{folder}: {bad} bad records")

    return Reader("text parquet", ("a.parquet",), read, (damaged_bytes, damaged_end))


def damaged_end(random: Random, data: bytes) -> bytes:
    """Damage to the last few hundred bytes, where parquet has its schema and its counts."""
    cut = max(0, len(data) - 1200)
    changed = bytearray(data[cut:])
    for _ in range(random.choice((1, 2, 3))):
        changed[random.randrange(len(changed))] = random.choice(
            (0, 1, 2, 127, 128, 255, random.randrange(256))
        )
    return data[:cut] + bytes(changed)


def pictures(good: Path) -> Reader:
    """Pictures in every format, alone, in a tar and in parquet."""
    good.mkdir()
    values = np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)
    encoded = {}
    for ending in ("png", "jpg", "webp", "tiff", "ppm", "bmp", "gif"):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, {"jpg": "JPEG"}.get(ending, ending.upper()))
        encoded[f"a.{ending}"] = buffer.getvalue()
    for name, content in encoded.items():
        (good / name).write_bytes(content)
    with tarfile.open(good / "b.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(3):
            for ending, content in (("png", encoded["a.png"]), ("cls", b"1"), ("json", b"{}")):
                member = tarfile.TarInfo(f"{number:03d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    rows = {"image": [encoded["a.png"]] * 20, "label": [0, 1] * 10}
    pyarrow.parquet.write_table(pyarrow.table(rows), good / "c.parquet", row_group_size=8)
    names = (*encoded, "b.tar", "c.parquet")

    def read(folder: Path) -> None:
        bad = 0
        for name in names:
            kind = {"tar": "tar", "parquet": "parquet"}.get(name.split(".")[1], "image")
            size = (folder / name).stat().st_size
            file = ImageFile(str(folder / name), size, kind, None, "", "a")
            columns = ImageColumns("image", "label")
            assert all(isinstance(label, str) for label in read_labels(file, columns))
            for found in read_pictures(Unit(file, 0, None, size), columns):
                if isinstance(found, BadRecord):
                    assert file.url in str(found) and "\n" not in found.reason, found
                    bad += 1
                    continue
                try:
                    assert read_square(found.data, 8, 3).picture.size == (8, 8)
                except BadImage as error:
                    assert "\n" not in str(error)
                    bad += 1
        if bad:
            raise UserError(f"{folder}: {bad} bad records")

    return Reader("pictures", names, read, (damaged_bytes, damaged_end))


def text_shards(good: Path) -> Reader:
    """Shards of tokens, damaged at random; `verify` sees whatever a reader lets through."""
    build_shards(good, TEXTS)
    files = ("000000-000.tar", "000001-000.tar", "index.json", "tokenizer/tokenizer.json")

    def read(folder: Path) -> None:
        report = verify_shards(str(folder))
        reader = ShardReader(folder)
        tokens = reader.read(0, len(reader))
        reader.document_starts(0, len(reader))
        reader.tokenizer()
        if report.faults:
            raise IntegrityError(f"{folder}: {report.faults[0]}")
        assert tokens.max() < reader.index.vocab_size

    return Reader("text shards", files, read, (damaged_bytes,))


def forged_text_shards(good: Path) -> Reader:
    """With an index whose fingerprint and checksums fit."""
    reader = text_shards(good)

    def seal(folder: Path) -> None:
        try:
            refit(folder)
        except Exception:  # what it damaged is no index any more
            return

    return Reader("forged text shards", reader.files[:3], reader.read, (damaged_json,), seal)


def image_shards(good: Path) -> Reader:
    """Shards of pictures with an index that fits, and without."""
    build_image_shards(good, 6)
    shutil_rmtree(good.with_name(f"{good.name}-pictures"))

    def seal(folder: Path) -> None:
        try:
            if (folder / "index.json").stat().st_size % 2:
                refit(folder)
        except Exception:  # what it damaged is no index any more
            return

    def read(folder: Path) -> None:
        report = verify_images(str(folder))
        reader = ImageReader(folder)
        for number in range(len(reader)):
            assert reader.pixels(number).shape == (1, 8, 8)
        if report.faults:
            raise IntegrityError(f"{folder}: {report.faults[0]}")

    tars = tuple(sorted(path.name for path in good.glob("*.tar")))
    return Reader("image shards", (*tars, "index.json"), read, (damaged_json,), seal)


def shutil_rmtree(path: Path) -> None:
    import shutil

    shutil.rmtree(path)


def tokenizers(good: Path) -> Reader:
    """Our tokenizer folders, as they lie in shards and in checkpoints."""
    trained: dict[str, Tokenizer] = {
        "byte": byte_tokenizer(),
        "bpe": train_tokenizer(TEXTS, "bpe", 300),
        "unigram": train_tokenizer(TEXTS, "unigram", 300),
    }
    for name, tokenizer in trained.items():
        tokenizer.save(good / name)

    def read(folder: Path) -> None:
        for name, before in trained.items():
            tokenizer = Tokenizer.load(folder / name)
            assert tokenizer.fingerprint == before.fingerprint
            assert tokenizer.decode(tokenizer.encode(WORDS)) == WORDS

    files = ("byte/tokenizer.json", "bpe/tokenizer.json", "bpe/tokenizer.model", "unigram/tokenizer.model")

    return Reader("tokenizers", files, read, BOTH)


def foreign_tokenizers(good: Path) -> Reader:
    """What a Hugging Face folder brings: it becomes a tokenizer of ours, stays behind, or is refused."""
    good.mkdir()
    model = train_tokenizer(TEXTS, "bpe", 300)
    (good / "tokenizer.model").write_bytes(model.model)
    as_library_tokenizer(model, begins=False).save(str(good / "tokenizer.json"))

    def read(folder: Path) -> None:
        found = find_tokenizer(folder, model.vocab_size)
        assert (found.tokenizer is None) == bool(found.why) and found.why.isprintable(), found.why
        assert found.tokenizer is None or found.tokenizer.vocab_size == model.vocab_size

    return Reader("foreign tokenizers", ("tokenizer.json", "tokenizer.model"), read, BOTH)


def labelled(good: Path) -> Reader:
    """Tables, tagged words and conversations."""
    good.mkdir()
    (good / "a.tsv").write_text("text\tlabel\n" + "".join(f"{WORDS} {n}\tc{n % 2}\n" for n in range(9)))
    rows = [{"text": WORDS, "label": n % 2} for n in range(9)]
    (good / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (good / "a.conll").write_text("-DOCSTART- O\n\nEU B-ORG\nrejects O\n\nGerman B-MISC\n")
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (good / "chat.jsonl").write_text((json.dumps(chat) + "\n") * 3)
    (good / "chat.jinja").write_text(DEFAULT)

    def read(folder: Path) -> None:
        for name in ("a.tsv", "a.jsonl"):
            for row in read_table(str(folder / name), ["text"], "label"):
                assert row.label.strip() and all(text.strip() for text in row.texts)
        for sentence in read_conll(str(folder / "a.conll"), 0, -1):
            assert len(sentence.words) == len(sentence.labels) > 0
        data = ChatDataConfig.model_validate({"train": "x", "messages": "messages"})
        template = ChatTemplate.read(folder / "chat.jinja")
        for conversation in read_conversations(str(folder / "chat.jsonl"), data):
            assert conversation.messages[-1].role == "assistant"
            tokens, said = template.answers(byte_tokenizer(), conversation.messages)
            assert len(tokens) == len(said)

    files = ("a.tsv", "a.jsonl", "a.conll", "chat.jsonl", "chat.jinja")
    return Reader("labelled", files, read, BOTH)


def settings(good: Path) -> Reader:
    """Configs, suites and tasks."""
    good.mkdir()
    config = {
        "run": {"dir": "runs/x", "steps": 3},
        "model": {"kind": "gpt", "num_layers": 1, "hidden_size": 8, "num_attention_heads": 2},
        "batch": {"global_size": 2, "sequence_length": 8},
        "optimizer": {"lr": 1e-3},
        "data": {"train": [{"path": "a", "weight": 1}]},
    }
    suite = {"tasks": [{"task": "perplexity", "name": "a", "stride": 4}, {"task": "harness", "tasks": ["b"]}]}
    task = {
        "task": "a",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "a.jsonl"}},
        "doc_to_text": "{{question}}",
    }
    for name, tree in (("config", config), ("suite", suite), ("task", task)):
        (good / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    (good / "a.jsonl").write_text(json.dumps({"question": "a", "answer": 1}) + "\n")

    def read(folder: Path) -> None:
        assert read_config(str(folder / "config.yaml")).config.run.steps >= 1
        assert load_suite(str(folder / "suite.yaml")).entries
        assert read_task_file(folder / "task.yaml").keys
        for example in read_lines_of(folder / "a.jsonl"):
            assert isinstance(example.fields, dict)

    files = ("config.yaml", "suite.yaml", "task.yaml", "a.jsonl")
    return Reader("settings", files, read, (damaged_bytes, _damaged_yaml))


def _damaged_yaml(random: Random, data: bytes) -> bytes:
    return damaged_json(random, json.dumps(yaml.safe_load(data)).encode())


def reports(good: Path) -> Reader:
    """The report of a cleaning."""
    good.mkdir()
    skipped = (BadRecord("a", "line 1", "b"),)
    report = CleanReport(3, 4, 1, 1, {"c4": 1}, {"x": 2}, 1, 1, 0, skipped, 1)
    (good / "report.json").write_text(report.to_json())

    def read(folder: Path) -> None:
        found = read_report(folder)
        assert min(found.documents, found.bytes, found.partitions) >= 0
        assert all(isinstance(count, int) for count in found.removed.values())
        assert all(isinstance(record.reason, str) for record in found.skipped)

    return Reader("reports", ("report.json",), read, BOTH)


def hugging_face(good: Path) -> Reader:
    """The config of a transformers folder, with the tensors that it speaks of."""
    import transformers

    from pretrain.hf.importer import _check, _our_config, _plain_names, _read_config
    from pretrain.hf.shards import TensorFolder

    config = transformers.LlamaConfig(
        vocab_size=31,
        max_position_embeddings=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.LlamaForCausalLM(config).save_pretrained(good)
    (good / "generation_config.json").unlink()

    def read(folder: Path) -> None:
        theirs, architecture = _read_config(folder)
        tensors = TensorFolder(folder)
        names = _plain_names(tensors, architecture)
        ours = _our_config("run", architecture, theirs, names, tensors)
        links = list(architecture.links(ours, theirs.vocab_size))
        _check(tensors, names, links, architecture.copies(ours))
        assert ours.model.num_layers == 1 and theirs.vocab_size == 31

    return Reader("Hugging Face", ("config.json", "model.safetensors"), read, BOTH)


def extractor(good: Path) -> Reader:
    """A TorchScript file in Inception's place: a program, which torch reads without Python's pickle."""

    class Features(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().flatten(1)[:, :2048]

    good.mkdir()
    torch.jit.script(Features()).save(str(good / "a.pt"))

    def read(folder: Path) -> None:
        found = InceptionExtractor(str(folder / "a.pt"), None, "file", torch.device("cpu"))
        assert found.features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 2048)

    return Reader("extractor", ("a.pt",), read)


DATA_READERS: tuple[Callable[[Path], Reader], ...] = (
    texts,
    text_parquet,
    pictures,
    text_shards,
    forged_text_shards,
    image_shards,
    tokenizers,
    foreign_tokenizers,
    labelled,
    settings,
    reports,
    hugging_face,
    extractor,
)
