"Two machines: two network namespaces with a cable between them, each with a disk of its own."
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from iddm.checkpoints import load_checkpoint

# A shell that holds both machines. It prints `up`, then runs each line that it's given: the number of a machine, and a command.
MACHINES = """
ip link set lo up
unshare --net sleep 600 & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep .05; done
ip link add cable0 type veth peer name cable1 && ip link set cable1 netns $other || exit 1
ip addr add 10.77.0.1/24 dev cable0 && ip link set cable0 up || exit 1
nsenter -t $other -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev cable1; ip link set cable1 up' || exit 1
echo up
while read -r n line; do
    if [ $n = 0 ]; then bash -c "$line" & else nsenter -t $other -n bash -c "$line" & fi
done
"""
TINY = "--image_size 8 --widths 64 --attention [] --batch_size 16 --epochs 6 --sample_interval 3 --sample_steps 2 --num_vis 3 --save_interval 1 --precision fp32 --device cpu --exact_shards 2 --dataset_path pictures"


def holders():
    "How to start that shell: as root, or as root of a user namespace."
    return [["unshare", "--net"]] * (os.geteuid() == 0) + [["unshare", "--user", "--map-root-user", "--net"]]


class Machines:
    def __init__(self, where):
        self.where, self.why = where, "network namespaces are not allowed here"
        for n in (0, 1):
            (where / f"host{n}").mkdir()
        for start in holders():
            self.shell = subprocess.Popen([*start, "bash", "-c", MACHINES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
            if self.shell.stdout.readline() == "up\n":
                return
            self.why += f": {self.shell.stderr.read().strip()[-200:]}"
        pytest.skip(self.why)

    def start(self, n, command, name):
        "Run a command on a machine, in its own folder; its output goes to a file there."
        out = self.where / f"host{n}" / f"{name}.txt"
        setting = f"cd {out.parent}; export PYTHONPATH={os.pathsep.join(filter(None, sys.path))} OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=cable{n}"
        self.shell.stdin.write(f"{n} {setting}; {command} > {out} 2>&1; echo \"status $?\" >> {out}\n")
        self.shell.stdin.flush()
        return out

    def train(self, name, *flags, nodes=(0, 1)):
        outs = [self.start(n, f"{sys.executable} -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 --rdzv-id {name} "
                              f"--rdzv-conf join_timeout=40,read_timeout=40,is_host={1 - n} --local-addr 10.77.0.{n + 1} -m iddm.train {TINY} {' '.join(flags)}", name) for n in nodes]
        deadline = time.monotonic() + 150
        while not all(o.is_file() and "status " in o.read_text() for o in outs):
            assert time.monotonic() < deadline, [o.read_text() for o in outs]; time.sleep(.1)
        return [o.read_text() for o in outs]

    def end(self):
        os.killpg(self.shell.pid, 9)
        self.shell.wait(10)


@pytest.fixture
def machines(tmp_path):
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine: apt-get install iproute2 util-linux")
    m = Machines(tmp_path)
    yield m
    m.end()


def pictures(where, n=32):
    "A folder of one's own, of grey pictures."
    for name in ("a", "b"):
        (where / "pictures" / name).mkdir(parents=True)
    for i in range(n):
        Image.new("L", (8, 8), 7 * i).save(where / "pictures" / "ab"[i % 2] / f"{i}.png")


def test_two_machines_train_as_one(machines, tmp_path):
    hosts = [tmp_path / f"host{n}" for n in (0, 1)]
    pictures(hosts[0])
    start = time.monotonic()
    assert all("status 1" in told for told in machines.train("missing"))
    print(f"a folder that is missing on one machine: {time.monotonic() - start:.0f} s")
    both = "".join((o / "missing.txt").read_text() for o in hosts)
    assert both.count("iddm-train: process 1 on") == 1 and "pictures" in both and time.monotonic() - start < 60, both
    pictures(hosts[1], 31)
    both = "".join(machines.train("differs"))
    assert both.count("iddm-train: process 1 on") == 1 and "has pictures 31, process 0 on" in both, both
    shutil.rmtree(hosts[1] / "pictures")
    pictures(hosts[1])
    start = time.monotonic()
    told = machines.train("both")
    print(f"12 steps on two machines: {time.monotonic() - start:.0f} s")
    assert all("status 0" in o for o in told) and "in 2 processes" in told[0], told
    assert (hosts[0] / "results/df/vis/epoch_006_ema.png").is_file()
    assert not (hosts[1] / "results/df").exists()
    told = machines.train("more", "--resume", "True", "--epochs", "8")  # the checkpoint is on the first machine alone
    assert all("status 0" in o for o in told) and "going on from step 12 of 16" in told[0], told
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    for flags in ([], ["--resume", "True", "--epochs", "8"]):
        subprocess.run([sys.executable, "-m", "iddm.train", *TINY.split(), "--run_name", "one", *flags], cwd=hosts[0], env=env, check=True, capture_output=True)
    one, two = (load_checkpoint(hosts[0] / "results" / o, ema=False)[0] for o in ("one", "df"))
    assert all(torch.equal(one[k], two[k]) for k in one)  # with exact shards, to the last bit


def test_a_machine_that_never_comes_is_told(machines, tmp_path):
    pictures(tmp_path / "host0")
    start = time.monotonic()
    told, = machines.train("alone", nodes=(0,))
    print(f"a machine that never comes: {time.monotonic() - start:.0f} s")
    assert "RendezvousTimeoutError" in told
    assert "status 1" in told
    assert time.monotonic() - start < 60
