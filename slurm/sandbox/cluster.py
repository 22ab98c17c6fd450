"""A sandbox: its folder, its daemons and the operations on them."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from data_tools import children
from data_tools.errors import UserError
from data_tools.private import make_private_folder
from slurm.sandbox.conf import Shape, free_ports, gpu_files, gres_conf, node_names, slurm_conf
from slurm.sandbox.packages import find_program
from slurm.sandbox.processes import Process, end, process_of, recall, remember, with_environment

START_SECONDS = 120.0
"""How long daemons may take until all nodes are idle."""
STOP_SECONDS = 5.0
"""How long a daemon may take to end by itself."""
MARK = "sandbox.json"
"""File that identifies a folder as a sandbox."""


class Sandbox:
    """A cluster on this machine.

    Args:
        folder: holds all of its files; created by `up`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    @property
    def conf(self) -> Path:
        """slurm.conf; every Slurm command finds the cluster by SLURM_CONF."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with SLURM_CONF, and without the variables of a surrounding job."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        return ours | {"SLURM_CONF": str(self.conf)}

    @property
    def nodes(self) -> list[str]:
        return node_names(Shape(**json.loads((self.folder / MARK).read_text())))

    def daemons(self) -> dict[str, Process]:
        """Running daemons by name: munged, slurmctld, and each node's slurmd under the node's name."""
        found = {path.stem: recall(path) for path in sorted((self.folder / "run").glob("*.json"))}
        return {name: process for name, process in found.items() if process and process.alive}

    def up(self, shape: Shape) -> None:
        """Start a cluster; returns once all nodes are idle.

        Raises UserError: not root; it is already up; the folder has other content; a daemon does not start.
        """
        if os.geteuid() != 0:
            raise UserError("the sandbox needs root: each node has its own hostname and /etc/hosts")
        try:
            make_private_folder(self.folder)
        except OSError as error:
            raise UserError(f"{self.folder}: {error.strerror}") from None
        with self._locked():
            if self.daemons():
                raise UserError(f"{self.folder}: this sandbox is up; `down` first")
            self._clear()
            self._write(shape)
            try:
                self._start_munged()
                self._start("slurmctld", ["slurmctld", "-D", "-c"])
                for name in node_names(shape):
                    self.start_node(name)
                self._await_idle(shape.nodes)
            except BaseException:
                self._end_all()
                raise

    def down(self) -> None:
        """End every process of the cluster and of its jobs. The folder stays, for its logs.

        Raises UserError: the folder is not a sandbox.
        """
        if not (self.folder / MARK).is_file():
            raise UserError(f"{self.folder}: there is no sandbox here")
        with self._locked():
            self._end_all()

    def start_node(self, name: str) -> None:
        """Start a node's slurmd, in namespaces in which the machine has the node's name."""
        script = f'hostname {name} && mount --bind {self.folder}/hosts /etc/hosts && exec "$0" -D -N {name}'
        slurmd = find_program("slurmd") or "slurmd"
        self._start(name, ["unshare", "--mount", "--uts", "sh", "-c", script, slurmd])

    def job_processes(self) -> list[tuple[Process, str]]:
        """Processes of jobs, including slurmstepd, and the name of each one's command."""
        return [
            (process, name)
            for process, name, environment in with_environment(SLURM_CONF=str(self.conf))
            if name == "slurmstepd" or "SLURM_JOB_ID" in environment
        ]

    def run(self, *command: str) -> str:
        """Run a Slurm command on this cluster.

        Returns:
            Its output, without the trailing newline.

        Raises:
            UserError: it failed.
        """
        done = children.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.rstrip("\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up` or `down` at a time in this folder."""
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _clear(self) -> None:
        """Empty the folder of an earlier sandbox; another folder's content is refused."""
        left = [path for path in self.folder.iterdir() if path.name != "lock"]
        if left and not (self.folder / MARK).is_file():
            raise UserError(
                f"{self.folder}: holds other things ({left[0].name}); choose a new or an empty folder"
            )
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _write(self, shape: Shape) -> None:
        (self.folder / MARK).write_text(json.dumps(asdict(shape)) + "\n")
        for name in ("state", "log", "run", "devices", *(f"spool/{node}" for node in node_names(shape))):
            (self.folder / name).mkdir(parents=True)
        names = "".join(f"127.0.0.1 {name}\n" for name in node_names(shape))
        (self.folder / "hosts").write_text(Path("/etc/hosts").read_text().rstrip("\n") + "\n" + names)
        self.conf.write_text(slurm_conf(self.folder, shape, free_ports(shape.nodes + 1)))
        for file in gpu_files(self.folder, shape):
            file.touch()
        (self.folder / "gres.conf").write_text(gres_conf(self.folder, shape))
        (self.folder / "cgroup.conf").write_text("")
        key = self.folder / "munge.key"
        key.touch(0o400)
        key.write_bytes(os.urandom(1024))

    def _start_munged(self) -> None:
        options = {
            "socket": "munge.sock",
            "key-file": "munge.key",
            "pid-file": "run/munged.munge-pid",
            "log-file": "log/munged",
            "seed-file": "munge.seed",
        }
        # --force: a folder that not everybody may enter is a warning, not an error
        command = ["munged", "--foreground", "--force", "--num-threads=4"]
        self._start("munged", command + [f"--{key}={self.folder / name}" for key, name in options.items()])

    def _start(self, name: str, command: Sequence[str]) -> None:
        program = find_program(command[0])
        if program is None:
            raise UserError(f"the sandbox needs {command[0]}; --install installs it")
        with open(self.folder / "log" / f"{name}.start", "ab") as output:
            started = children.start_to_outlive(  # until `down`
                [program, *command[1:]],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        process = process_of(started.pid)
        if process is None:
            raise UserError(f"{name} ended at once; see {self.folder}/log/{name}.start")
        remember(self.folder / "run" / f"{name}.json", process)

    def _await_idle(self, count: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            answer = children.run(
                ["sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D"],
                env=self.environment,
                capture_output=True,
                text=True,
            )
            if answer.stdout.split() == [str(count)]:
                return
            missing = {"munged", "slurmctld", *self.nodes} - self.daemons().keys()
            if missing or time.monotonic() > deadline:
                what = f"{', '.join(sorted(missing))} ended" if missing else "its nodes do not become idle"
                raise UserError(f"the sandbox does not start: {what}; see {self.folder}/log")
            time.sleep(0.1)

    def _end_all(self) -> None:
        daemons = self.daemons()
        slurm = [process for name, process in daemons.items() if name != "munged"]
        end(slurm, STOP_SECONDS)
        # they may have started more in the meantime
        while jobs := [process for process, _ in self.job_processes()]:
            end(jobs, 0)
        end([process for name, process in daemons.items() if name == "munged"], STOP_SECONDS)
