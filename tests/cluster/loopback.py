"""A SLURM of two nodes on this machine: it starts in a folder of its own, on free ports, and ends.

Its nodes are named by their loopback addresses, so no name has to resolve. What SLURM makes users
wait for is cut short: five seconds until a requeued job starts again.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from commands import ROOT, free_ports

NODES = ("127.0.0.1", "127.0.0.2")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={nodes[0]} NodeAddr={nodes[0]} NodeHostname={host} Port={ports[1]} CPUs=64 Gres=gpu:8
NodeName={nodes[1]} NodeAddr={nodes[1]} NodeHostname={host} Port={ports[2]} CPUs=64 Gres=gpu:8
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10
"""


class Unavailable(Exception):
    """SLURM's daemons don't start here."""


def missing():
    """What a cluster lacks on this machine, in words; empty where it has everything."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch")
    if absent := [name for name in programs if not shutil.which(name)]:
        return f"no {', '.join(absent)}: install slurm-wlm and munge"
    return "SLURM's daemons need root" if os.geteuid() else ""


class Cluster:
    """The daemons of one SLURM, and its commands."""

    def __init__(self, folder):
        self.folder = folder
        self._daemons = {}
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(folder=folder, host=host, ports=free_ports(3), nodes=NODES)
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        for gpu in range(8):
            (folder / f"gpu{gpu}").touch()
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        paths = (Path(sys.executable).parent, os.environ["PATH"])
        self.environment = {
            **{name: value for name, value in os.environ.items() if "SLURM" not in name},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.pathsep.join(map(str, paths)),
            "PYTHONPATH": str(ROOT),
        }

    def __enter__(self):
        """Start the daemons; Unavailable, after they have ended, if a node stays away."""
        try:
            where = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munge.pid"}
            where |= {"log-file": "munge.log", "seed-file": "munge.seed"}
            options = [f"--{name}={self.folder / file}" for name, file in where.items()]
            # Without --force it wants a folder that everybody may enter; only root calls it here.
            self._start("munged", "--foreground", "--force", *options)
            self.wait_until((self.folder / "munge.sock").exists, 10)
            self._start("slurmctld", "-D")
            for node in NODES:
                self._start("slurmd", "-D", "-N", node, name=node)
            self.wait_until(self.is_idle, 20)
        except (OSError, AssertionError) as error:
            self.__exit__()
            raise Unavailable(f"SLURM doesn't start: {error}") from error
        return self

    def __exit__(self, *_):
        if "slurmctld" in self._daemons and self._daemons["slurmctld"].poll() is None:
            self.run("scancel", "--me")
            self.run("scancel", "--me", "--signal=KILL")
            with contextlib.suppress(AssertionError):
                self.wait_until(lambda: not self.call("squeue", "--noheader", check=False), 10)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            daemon.wait(20)

    def _start(self, program, *arguments, name=None):
        name = name or program
        with (self.folder / f"{name}.out").open("a") as output:
            # The kernel ends it with the process that started it, whatever happened to that one.
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", program, *map(str, arguments)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def is_idle(self):
        nodes = self.call("sinfo", "--noheader", "--states=idle", "--format=%D", check=False)
        return nodes == str(len(NODES))

    def run(self, *command):
        """Run a SLURM command in the checkout."""
        return subprocess.run(
            [*map(str, command)], cwd=ROOT, env=self.environment, capture_output=True, text=True
        )

    def call(self, *command, check=True):
        """What a SLURM command prints."""
        done = self.run(*command)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def state(self, job):
        fields = self.call("scontrol", "show", "job", job, "--oneliner").split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def wait_until(self, condition, seconds=60, pause=0.1):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {seconds} s in vain"
            time.sleep(pause)
        return found
