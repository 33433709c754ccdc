"""How threads wait: set by the command before torch is imported, and never over a user's own setting."""

import json
import os
import subprocess
import sys

import pytest

from flatnext.cpu import VARIABLES, awake, sleeping


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "0"}, {"KMP_BLOCKTIME": "200"}])
def test_a_users_own_setting_is_left_alone(own):
    environment = {"HOME": "/x", **own}
    assert sleeping(environment) == environment
    assert awake(sleeping(environment)) == environment


def test_otherwise_threads_sleep():
    environment = {"HOME": "/x"}
    assert sleeping(environment) == environment | VARIABLES
    assert awake(sleeping(environment)) == environment


def test_the_command_says_so_before_torch_is_imported():
    code = (
        "import sys, os, json\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': seen.append(dict(os.environ))\n"
        "seen = []\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from flatnext.cli.main import main\n"
        "main(['evaluate', 'nowhere.safetensors'])\n"
        "import torch\n"
        "print(json.dumps(seen[0]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {name: seen.get(name) for name in VARIABLES} == VARIABLES
