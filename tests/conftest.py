"""Its presence puts this folder on the import path, so that tests share helpers such as `text_shards`."""

from hypothesis import HealthCheck, settings

# Nothing here measures time: a machine that is busy with something else fails no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
