"""Which library multiplies matrices on a CPU: what is available, what is fastest here, what a run began
with."""
