"""Its presence puts this folder on the import path, so that tests share helpers such as `text_shards`."""

import os

from hypothesis import HealthCheck, settings

# One process and two then round alike, and a machine of many cores is not crowded; `make test` says the same.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing here measures time: a machine that is busy with something else fails no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
