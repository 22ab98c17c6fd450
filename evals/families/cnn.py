"""The accuracy of an image classifier, on its validation images or others."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.cache import ShardCache
from data_tools.images.reader import ImageReader
from data_tools.progress import Progress
from data_tools.sources import absolute
from evals.images.data import image_data
from evals.perplexity import error_of_share
from evals.request import EvalRequest
from evals.result import Result, spec_of
from pretrain.cnn.score import SavedClassifier, Scores, load_classifier, score_images
from pretrain.data.images import ImageSource, open_images
from pretrain.data.sources import shard_cache
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError

DEFINITIONS = {
    "accuracy": "share of images whose likeliest class is theirs",
    "accuracy_error": "its standard error, sqrt(p (1 - p) / n)",
    "validation_loss": "mean cross-entropy in nats per image",
    "images_scored": "images of all directories, each once",
}


def evaluate_classifier(path: Path, world: DistContext, request: EvalRequest) -> Result:
    """Score a classifier, all ranks together; the same result on every rank and for any number of ranks.

    Raises UserError for overrides without effect and for images of another size or other classes.
    """
    data = request.data
    about = image_data(
        path, request.overrides, data, None, "a classifier's accuracy; for other images give --data DIR"
    )
    saved = load_classifier(path, world.device)
    sources = [ImageSource(reader) for reader in _open(saved, data, shard_cache(about))]
    scores = Scores()
    with Progress("scoring", sum(map(len, sources)) / world.size, "images") as progress:
        for source in sources:
            scores += score_images(saved.classifier, source, world, progress.advance)
    metrics = {
        "accuracy": scores.accuracy,
        "accuracy_error": error_of_share(scores.accuracy, scores.images),
        "validation_loss": scores.mean_loss,
        "images_scored": scores.images,
    }
    paths = [absolute(source.reader.path) for source in sources]
    spec = {
        **spec_of("accuracy", DEFINITIONS, saved.checkpoint, world),
        "data": [
            {"path": path, "fingerprint": source.reader.fingerprint, "images": len(source)}
            for path, source in zip(paths, sources, strict=True)
        ],
        "precision": saved.config.precision,
        "summary": f"scored {', '.join(paths)}; {saved.config.precision} on {world.device.type}",
    }
    return Result(str(saved.checkpoint.path), saved.checkpoint.step, metrics, spec)


def _open(saved: SavedClassifier, data: Sequence[str], cache: ShardCache | None) -> list[ImageReader]:
    """The images to score, which must have the size, channels and classes of the training images."""
    config = saved.config
    key = "--data" if data else "data.validation"
    paths = list(data) or [source.path for source in config.data.validation or ()]
    if not paths:
        raise UserError("the run has no validation images; name shards to score with --data DIR")
    readers = open_images(paths, key, cache)
    for reader in readers:
        saved.require_fits(reader, key)
    return readers
