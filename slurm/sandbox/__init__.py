"""A real Slurm cluster on this machine, for development and tests: `python -m slurm.sandbox up|down|status`.

Debian's own slurmctld, several slurmd and munged, as root, without systemd, cgroups or a network: everything
listens on loopback, on ports that were free, and keeps its state in one folder. A node is a slurmd in its own
UTS and mount namespace, so that it has a hostname, and names of other nodes resolve. All nodes have one
address and differ by port: srun hangs where they have addresses of their own in 127/8.
"""
