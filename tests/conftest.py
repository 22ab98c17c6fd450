"""Its presence puts this folder on the import path, so that tests share helpers such as `text_shards`."""

import os

from hypothesis import HealthCheck, settings

from pretrain.distributed.secret import VARIABLE, new_secret

# One process and two then round alike, and a machine of many cores is not crowded; `make test` says the same.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ranks that tests start by hand share one; their user's home stays as it is.
os.environ[VARIABLE] = new_secret()

# Two run folders whose bits are compared multiply alike, whatever a machine's own trial would say.
os.environ["PRETRAIN_CPU_PRODUCTS"] = "torch"

# Nothing here measures time: a machine that is busy with something else fails no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
