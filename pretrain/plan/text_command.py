"""`pretrain plan` of a transformer: its plan on one layout, or the layouts that fit, ranked."""

import time

from data_tools.directory import open_directory, passing_cache
from data_tools.index import read_index
from pretrain.config.hardware import Cluster
from pretrain.config.sections import CorpusConfig
from pretrain.errors import UserError
from pretrain.kinds import kind_of
from pretrain.plan.request import PlanRequest, print_json
from pretrain.plan.search import search_command
from pretrain.plan.table import print_text_plan
from pretrain.plan.text_plan import plan_text


def show_text_plan(assumed: int, config: CorpusConfig, request: PlanRequest, cluster: Cluster) -> None:
    """Print the plan.

    Args:
        assumed: ids of the published tokenizer, for configs whose data is not here yet.
        config: of the run; it fits the cluster (`config.rules`), except in a search.
        request: the command's options.
        cluster: where it is to run.

    Raises:
        UserError: no layout fits.
    """
    began = time.perf_counter()
    vocabulary, where = _vocabulary(config, request, assumed)
    spec_of = kind_of(config).spec
    assert spec_of is not None, "the record of what reads a corpus has it"
    if request.search:
        search_command(config, vocabulary, cluster, spec_of, as_json=request.json)
        return
    found = plan_text(config, vocabulary, cluster, spec_of)
    if request.json:
        more = {"vocabulary": vocabulary, "seconds_to_plan": time.perf_counter() - began}
        print_json(found, more, cluster)
    else:
        print_text_plan(config, found, cluster, f"{vocabulary:,} ids, {where}", request.tokens)


def _vocabulary(config: CorpusConfig, request: PlanRequest, assumed: int) -> tuple[int, str]:
    """Ids of the tokenizer, and where the number comes from."""
    if request.vocab_size is not None:
        return request.vocab_size, "from --vocab-size"
    path = config.data.train[0].path
    try:
        with passing_cache(path) as cache:
            place = open_directory(path, cache)
            return read_index(place.local, place.named).vocab_size, "from data.train"
    except UserError:
        return assumed, "assumed: data.train is not here; --vocab-size says otherwise"
