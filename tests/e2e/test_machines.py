"Two machines: two network namespaces with a cable between them, each with a disk of its own."
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from iddm.run import load_checkpoint

# A shell that holds both machines. It prints `up`, then runs each line that it's given: the number of a machine, and
# a command.
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
TINY = ("--image_size 8 --widths 64 --attention [] --batch_size 16 --epochs 6 --sample_interval 3 --sample_steps 2 "
        "--num_vis 3 --save_interval 1 --precision fp32 --device cpu --exact_shards 2 --dataset_path images")
TORCHRUN = ("-m torch.distributed.run --nnodes 2 --nproc-per-node 1 "
            "--rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 --rdzv-id {name} "
            "--rdzv-conf join_timeout=40,read_timeout=40,is_host={is_host} --local-addr 10.77.0.{address}")


def holders():
    "Return how to start that shell: as root, or as root of a user namespace."
    as_user = ["unshare", "--user", "--map-root-user", "--net"]
    return [["unshare", "--net"], as_user] if os.geteuid() == 0 else [as_user]


def python_path():
    return os.pathsep.join(filter(None, sys.path))


class Machines:
    def __init__(self, where):
        self.where = where
        for n in (0, 1):
            (where / f"host{n}").mkdir()
        why = "network namespaces are not allowed here"
        for start in holders():
            self.shell = subprocess.Popen(
                [*start, "bash", "-c", MACHINES], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, start_new_session=True)
            if self.shell.stdout.readline() == "up\n":
                return
            why += f": {self.shell.stderr.read().strip()[-200:]}"
        pytest.skip(why)

    def start(self, n, command, name):
        "Run a command on a machine, in its own folder; its output goes to a file there."
        out = self.where / f"host{n}" / f"{name}.txt"
        setting = f"PYTHONPATH={python_path()} OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=cable{n}"
        line = f"cd {out.parent}; export {setting}; {command} > {out} 2>&1; echo \"status $?\" >> {out}"
        self.shell.stdin.write(f"{n} {line}\n")
        self.shell.stdin.flush()
        return out

    def train(self, name, *flags, nodes=(0, 1)):
        "Train on these machines together, and return what each has printed."
        outs = []
        for n in nodes:
            torchrun = TORCHRUN.format(name=name, is_host=1 - n, address=n + 1)
            outs.append(self.start(n, f"{sys.executable} {torchrun} -m iddm.train {TINY} {' '.join(flags)}", name))
        deadline = time.monotonic() + 150
        while not all(o.is_file() and "status " in o.read_text() for o in outs):
            assert time.monotonic() < deadline, [o.read_text() for o in outs]
            time.sleep(.1)
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


def make_images(host, n=32):
    "Make a folder of grey images on a machine."
    for name in ("a", "b"):
        (host / "images" / name).mkdir(parents=True)
    for i in range(n):
        Image.new("L", (8, 8), 7 * i).save(host / "images" / "ab"[i % 2] / f"{i}.png")


def test_a_folder_that_is_missing_or_differs_on_one_machine_is_named(machines, tmp_path):
    hosts = [tmp_path / f"host{n}" for n in (0, 1)]
    make_images(hosts[0])
    outs = machines.train("missing")
    both = "".join(outs)
    assert all("status 1" in o for o in outs), both
    assert both.count("iddm-train: process 1 on") == 1, both
    assert "images" in both
    make_images(hosts[1], 31)
    both = "".join(machines.train("differs"))
    assert both.count("iddm-train: process 1 on") == 1, both
    assert "31, process 0 on" in both


def test_two_machines_train_as_one(machines, tmp_path):
    hosts = [tmp_path / f"host{n}" for n in (0, 1)]
    for host in hosts:
        make_images(host)
    start = time.monotonic()
    outs = machines.train("both")
    print(f"12 steps on two machines: {time.monotonic() - start:.0f} s")
    assert all("status 0" in o for o in outs), outs
    assert "in 2 processes" in outs[0]
    assert (hosts[0] / "results/df/vis/epoch_006_ema.png").is_file()
    assert not (hosts[1] / "results/df").exists()
    more = ["--resume", "True", "--epochs", "8"]  # the checkpoint is on the first machine alone
    outs = machines.train("more", *more)
    assert all("status 0" in o for o in outs), outs
    assert "resuming at step 12 of 16" in outs[0]
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=python_path())
    command = [sys.executable, "-m", "iddm.train", *TINY.split(), "--run_name", "one"]
    subprocess.run(command, cwd=hosts[0], env=env, check=True, capture_output=True)
    subprocess.run([*command, *more], cwd=hosts[0], env=env, check=True, capture_output=True)
    one, two = (load_checkpoint(hosts[0] / "results" / o, ema=False)[0] for o in ("one", "df"))
    assert all(torch.equal(one[k], two[k]) for k in one)  # with exact shards, to the last bit


def test_a_machine_that_never_comes_is_an_error(machines, tmp_path):
    make_images(tmp_path / "host0")
    start = time.monotonic()
    out, = machines.train("alone", nodes=(0,))
    print(f"a machine that never comes: {time.monotonic() - start:.0f} s")
    assert "RendezvousTimeoutError" in out
    assert "status 1" in out
