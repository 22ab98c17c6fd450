"""What the uploader rests on, without a server: redaction, the follower, where metrics go, the loss curve."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pretrain.errors import IntegrityError
from pretrain.redact import one_line, redact
from pretrain.run.folder import RunFolder
from pretrain.tracking.facts import environment_facts
from pretrain.tracking.journal import CHUNK, Follower, Journal, encode
from pretrain.tracking.plot import plot_accuracy_curves, plot_loss_curve, running_mean, thin
from pretrain.tracking.record import LOCAL, Record, Sent, choose_uri, read_record, write_sent


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://me:secret@host:5000/x", "http://***@host:5000/x"),
        ("at postgresql+psycopg2://me:p@ss@host/db, twice", "at postgresql+psycopg2://***@host/db, twice"),
        ("https://host/?api_key=secret&x=1", "https://host/?api_key=***&x=1"),
        ("http://host/a@b and me@host", "http://host/a@b and me@host"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_secrets_are_redacted(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert one_line(OSError(text + "\nmore")) == f"OSError: {redacted}"


def test_a_follower_reads_whole_lines_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.read() == [] and not follower.was_replaced()
    lines = [encode({"step": step, "time": 0.0, "loss": 1.0}) for step in range(10_000)]
    lines[5000] = encode({"step": 5000, **{f"metric_{i}": float(i) for i in range(CHUNK // 10)}})
    data = b"".join(lines)
    path.write_bytes(data + b'{"step": 10000, "lo')
    steps = []
    while entries := follower.read():
        steps += [int(entry["step"]) for entry in entries]
    assert steps == list(range(10_000)) and follower.offset == len(data)
    with open(path, "ab") as file:
        file.write(b'ss": 1.0}\n\0\0\n')
    assert follower.read() == [{"step": 10_000, "loss": 1.0}]
    assert follower.read() == []


def test_a_follower_notices_a_journal_wound_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        journal.append(step, {"loss": 1.0})
    follower = Follower(journal.path)
    assert len(follower.read()) == 5
    journal.truncate_after(2)
    for step in range(3, 9):  # longer than before: its size alone would say nothing
        journal.append(step, {"loss": 1.0})
    assert follower.was_replaced()


def test_where_metrics_go() -> None:
    nothing, variable = {}, {"MLFLOW_TRACKING_URI": "http://me:secret@env"}
    assert choose_uri(None, nothing, Record()) == LOCAL
    assert choose_uri(None, variable, Record()) == "http://me:secret@env"
    assert choose_uri("http://config", variable, Record((Sent(LOCAL),))) == "http://config"
    before = Record((Sent("http://***@env", mlflow_run="1"),))
    assert choose_uri(None, variable, before) == "http://me:secret@env"  # the same, with its credentials
    assert choose_uri(None, nothing, before) == "http://***@env"  # not another MLflow run somewhere else
    assert choose_uri(None, variable, Record((Sent(LOCAL),))) == LOCAL


def test_a_relative_database_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = choose_uri("sqlite:///runs.db", {}, Record())
    assert uri == f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.chdir("/")
    assert choose_uri("sqlite:///runs.db", {}, Record((Sent(uri),))) == uri
    assert choose_uri("sqlite:////x/runs.db", {}, Record((Sent(uri),))) == "sqlite:////x/runs.db"


def test_the_record_of_several_servers_and_a_damaged_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_sent(folder, Sent(LOCAL, offset=1))
    write_sent(folder, Sent("http://a", mlflow_run="x"))
    write_sent(folder, Sent(LOCAL, offset=2))
    record = read_record(folder)
    assert [sent.uri for sent in record.servers] == [LOCAL, "http://a"]
    write_sent(folder, Sent("http://b"), is_own=False)
    write_sent(folder, Sent("http://a"))
    assert [sent.uri for sent in read_record(folder).servers] == ["http://a", LOCAL, "http://b"]
    assert record.sent_to(LOCAL).offset == 2 and record.sent_to("http://c") == Sent("http://c")
    folder.tracking.write_text('{"servers": [{"u')
    assert read_record(folder) == Record()


def test_the_loss_curve(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    assert not plot_loss_curve(journal.path, tmp_path / "loss.png")
    for step in range(1, 200):
        journal.append(step, {"loss": float("nan") if step == 9 else 3 / step, "lr": 1e-3})
        if step % 50 == 0:
            journal.append(step, {"validation_loss": 4 / step})
    assert plot_loss_curve(journal.path, tmp_path / "pictures" / "loss.png", "a run")
    picture = imread(tmp_path / "pictures" / "loss.png")
    assert picture.shape == (900, 1600, 4)
    blue = (picture[..., 2] > 0.6) & (picture[..., 0] < 0.3)
    red = (picture[..., 0] > 0.7) & (picture[..., 2] < 0.3)
    assert blue.sum() > 1000 and red.sum() > 100
    journal.path.write_bytes(b"garbage\n")
    with pytest.raises(IntegrityError):
        plot_loss_curve(journal.path, tmp_path / "loss.png")


def test_accuracy_curves(tmp_path: Path) -> None:
    journal, picture = Journal(tmp_path / "metrics.jsonl"), tmp_path / "accuracy.png"
    journal.append(1, {"loss": 3.0})
    assert not plot_accuracy_curves(journal.path, picture) and not picture.exists()
    for step in range(2, 200):
        journal.append(step, {"loss": 3.0, "training_accuracy": 0.9, "training_baseline_accuracy": 0.1})
    assert plot_accuracy_curves(journal.path, picture, "a run")
    pixels = imread(picture)
    blue = (pixels[..., 2] > 0.6) & (pixels[..., 0] < 0.3)  # the first of two names
    rows = blue[:, pixels.shape[1] // 2].nonzero()[0]
    assert pixels.shape == (900, 1600, 4) and 0 < rows.mean() < 300, "drawn at nine tenths of the height"
    before = picture.read_bytes()
    journal.append(200, {"validation_accuracy": 0.5})
    assert plot_accuracy_curves(journal.path, picture, "a run") and picture.read_bytes() != before


def test_the_running_mean_and_thinning_keep_what_matters() -> None:
    flat = running_mean(np.array([(step, 2.5) for step in range(1000)]))
    assert all(abs(value - 2.5) < 1e-12 for _, value in flat)
    slope = np.array([(step, step) for step in range(1000)], np.float64)
    assert all(abs(value - step) < 1e-9 for step, value in running_mean(slope))  # it does not lag
    steep = np.array([(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0)])
    assert running_mean(steep)[:, 1].tolist() == [1, 7 / 3, 14 / 3, 28 / 3, 16]
    points = np.array([(step, 0.0) for step in range(123_457)])
    assert len(thin(points)) <= 5001 and (thin(points)[-1] == points[-1]).all()
    assert thin(points[:10]).tolist() == points[:10].tolist()


def test_facts_are_plain_text() -> None:
    facts = environment_facts()
    assert {"host", "python", "version.torch", "version.mlflow"} <= facts.keys()
    assert json.loads(json.dumps(facts)) == facts
    assert len(facts.get("git_commit", "0" * 40).removesuffix("-dirty")) == 40
