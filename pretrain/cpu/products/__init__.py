"""Which library multiplies matrices on a CPU: what there is, what is fastest here, what a run began with."""
