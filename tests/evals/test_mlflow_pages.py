"""What MLflow's own pages show of a run, in a real browser in front of a real server; and its registry."""

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from browser import Browser, open_browser
from mlflow_server import Server
from PIL import Image
from small_run import config_for, metrics_of, open_run
from typer.testing import CliRunner

from pretrain.checkpoint import open_checkpoint, verify
from pretrain.cli import app
from pretrain.errors import StoppedEarly
from pretrain.run.folder import RunFolder
from pretrain.tracking.record import page_of, read_record
from pretrain.tracking.system import System

pytestmark = pytest.mark.slow
NAMES = ("gpt", "faster", "gan")
COUNT = re.compile(r"\(\d+\)")
"""How many charts a section has, as its page shows after its name."""


@dataclass(frozen=True)
class Pages:
    """Runs that a server has, and where it shows them."""

    server: Server
    folder: Path
    run_ids: dict[str, str]
    addresses: dict[str, str]
    """As `pretrain sync` prints them."""

    def of(self, name: str, tab: str) -> str:
        return self.addresses[name].replace("?", f"/{tab}?")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(scored: Path, mlflow_server: Server) -> Pages:
    System(RunFolder(scored / "gpt")).look()  # as the uploader does beside a trainer
    lines = pretrain("sync", *(scored / name for name in NAMES)).splitlines()
    addresses = [line.split(" -> ")[1].rpartition(": ")[0] for line in lines if " -> " in line]
    records = [json.loads((scored / name / "tracking.json").read_text())["servers"][0] for name in NAMES]
    run_ids = dict(zip(NAMES, (record["mlflow_run"] for record in records), strict=True))
    return Pages(mlflow_server, scored, run_ids, dict(zip(NAMES, addresses, strict=True)))


def pretrain(*arguments: object) -> str:
    said = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said.output


def test_the_page_of_a_run(browser: Browser, pages: Pages) -> None:
    """Name, status, dataset, tags and parameters; of a long table the rows that are in view."""
    browser.open(pages.addresses["gpt"])
    browser.wait_for("gpt", "Status\nFinished", "Datasets", "Parameters (", "Tags")
    browser.wait_for(pages.run_ids["gpt"], "/text (")  # the dataset that it was trained on
    browser.wait_for("pretrain train", "layout\n: one process", "version.torch\n: ", "state\n: finished")
    browser.wait("a search of parameters", lambda: browser.fields("Search parameters"))
    for key, value in {"optimizer.lr": "0.001", "batch.sequence_length": "32", "model.kind": "gpt"}.items():
        browser.type(browser.fields("Search parameters")[0], key)
        browser.wait_for(f"{key}\n{value}")


def sections_of(text: str) -> list[str]:
    """Names of the sections of a page of charts, as they follow one another."""
    return [line for line, below in pairwise(text.splitlines()) if COUNT.fullmatch(below)]


def test_its_curves(browser: Browser, pages: Pages) -> None:
    browser.open(pages.of("faster", "model-metrics"))
    text = browser.wait_for("grad_norm", "validation_loss", "throughput", "time")
    assert sections_of(text) == ["loss", "optimizer", "throughput", "time", "Model metrics"]
    entries = [json.loads(line) for line in (pages.folder / "faster/metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    curve = browser.wait("the curve of the loss", lambda: browser.curve("loss/loss"))
    assert curve == {"x": [1, 2, 3, 4, 5], "y": pytest.approx(losses)}
    browser.open(pages.of("gpt", "system-metrics"))
    browser.wait_for("cpu_utilization_percentage", "system_memory_usage_megabytes")


def test_sections_of_a_scored_run(browser: Browser, pages: Pages) -> None:
    browser.open(pages.of("gan", "model-metrics"))
    text = browser.wait_for("samples", "scores", "time")
    assert sections_of(text)[:5] == ["loss", "optimizer", "samples", "scores", "throughput"]


def test_a_run_that_will_go_on_alarms_nobody(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    """Stopped by a signal: a clock, not the red cross of a failure; the tag says what is to come."""
    config = config_for(tmp_path / "preempted", pages.server.uri)
    with pytest.raises(StoppedEarly), open_run(config) as run:
        run.begin(0)
        run.log_step(1, metrics_of(1))
        raise run.stopped(1, signal.SIGUSR1)
    pretrain("sync", tmp_path / "preempted")
    [sent] = read_record(run.folder).servers
    page = page_of(pages.server.uri, sent)
    assert page is not None
    browser.open(page)
    browser.wait_for("Status\nScheduled", "stopped by SIGUSR1 at step 1 of 50", "the same command goes on")


@pytest.mark.parametrize("picture", ["loss.png", "samples/step-00000005.png"])
def test_pictures_are_drawn(browser: Browser, pages: Pages, picture: str) -> None:
    browser.open(pages.of("gan", f"artifacts/{picture}"))
    browser.wait_for(picture.rpartition("/")[2])
    with Image.open(pages.folder / "gan/artifacts" / picture) as image:
        assert browser.wait(f"the picture {picture}", browser.picture) == list(image.size)


def test_two_runs_are_compared(browser: Browser, pages: Pages) -> None:
    ids = [pages.run_ids[name] for name in ("gpt", "faster")]
    runs = "%5B" + ",".join(f"%22{each}%22" for each in ids) + "%5D"
    experiment = pages.addresses["gpt"].split("/experiments/")[1].split("/")[0]
    browser.open(f"{pages.server.uri}/#/compare-runs?runs={runs}&experiments=%5B%22{experiment}%22%5D")
    text = browser.wait_for("Comparing 2 Runs", "Run Name:", "batch.global_size", "Show diff only")
    assert "gpt" in text and "faster" in text
    browser.click("//button[@aria-label='Parameters - Show diff only']")
    browser.wait("differences alone", lambda: "batch.global_size" not in browser.text())
    assert "optimizer.lr 0.001 0.003" in browser.text().replace("\t", " ")


def test_a_checkpoint_is_registered_once(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    import mlflow

    run, step = pages.folder / "gpt", pages.folder / "gpt/checkpoints/step-00000003"
    assert "registered as version 1 of 'green bottles'" in pretrain("register", run, "green bottles")
    assert "was registered before as version 1" in pretrain("register", run, "green bottles")
    assert "as version 2" in pretrain("register", step, "green bottles", "--weights")
    client = mlflow.MlflowClient(pages.server.uri, pages.server.uri)
    first, second = (client.get_model_version("green bottles", number) for number in ("1", "2"))
    assert (first.tags["step"], second.tags["step"]) == ("5", "3")
    assert first.tags["checkpoint"] == str(run / "checkpoints/step-00000005")
    assert first.run_id == second.run_id == pages.run_ids["gpt"]
    kept = client.list_artifacts(first.run_id, "checkpoints/step-00000005")
    assert "manifest.json" in {Path(each.path).name for each in kept}
    assert not any(each.path.endswith(".safetensors") for each in kept)
    source = f"runs:/{second.run_id}/checkpoints/step-00000003"
    assert second.source == source
    server = pages.server.uri
    copy = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path), tracking_uri=server))
    assert verify(copy) == [] and open_checkpoint(copy).fingerprint == second.tags["checkpoint_fingerprint"]
    browser.open(f"{pages.server.uri}/#/models/green%20bottles")
    browser.wait_for("Version 2", "Version 1", "checkpoint_fingerprint")
    browser.open(pages.addresses["gpt"])
    browser.wait_for("Registered models", "green bottles")
