# SPDX-License-Identifier: Apache-2.0
"""What several hosts do together, as processes; and the devices of one."""

from __future__ import annotations

import argparse
import re
import socket
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import ENDED, started

from examples.common import hosts

PROGRAM = str(Path(__file__).with_name("meeting_host.py"))
LONG = 120  # seconds, for a busy machine


def _options(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    hosts.add_options(parser)
    return parser.parse_args(flags)


def test_hosts_work_together(tmp_path):
    options = ["--folders", *[str(tmp_path)] * 2, "--values", "one", "one", "--devices", "1"]
    with started([PROGRAM, *options], tmp_path, 2, devices=2) as running:
        assert [host.end(LONG) for host in running] == [0, 0]
        first, second = (host.printed() for host in running)
    assert "rows of host 0: [[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]]" in first
    assert "rows" not in second
    for text in (first, second):
        assert "sum [30.0, 36.0]" in text
        assert ENDED not in text
    assert not (tmp_path / ".shared").exists()


@pytest.mark.parametrize(
    ("folders", "values", "message"),
    [
        (("a", "a"), ("one", "two"), "the hosts differ in values: start each with the same"),
        (("a", "b"), ("one", "one"), "what they see in .*, a folder that all must share"),
    ],
)
def test_hosts_that_differ_do_not_start(tmp_path, folders, values, message):
    for folder in folders:
        (tmp_path / folder).mkdir(exist_ok=True)
    paths = [str(tmp_path / folder) for folder in folders]
    program = [PROGRAM, "--folders", *paths, "--values", *values]
    with started(program, tmp_path, 2) as running:
        assert 0 not in [host.end(LONG) for host in running]
        printed = [host.printed() for host in running]
    # Who sees it first ends the other.
    assert any(re.search(f"error: .*{message}", text) for text in printed)
    assert all(ENDED in text for text in printed)


@pytest.mark.parametrize("silent", [0, 1])
def test_a_host_without_a_sign_of_life_ends_the_others(tmp_path, silent):
    values = ["--values", "one", "one", "--heartbeat", "2"]
    program = [PROGRAM, "--folders", *[str(tmp_path)] * 2, *values]
    with started(program, tmp_path, 2, dies=(silent, 0)) as running:
        other = running[1 - silent]
        began = time.monotonic()
        assert other.end(LONG) != 0
        assert time.monotonic() - began < 60
        assert f"Host {1 - silent} of 2 has ended early" in other.printed()


@pytest.mark.parametrize(
    "flags",
    [
        ("--hosts", "2", "--host", "1"),
        ("--coordinator", "here:1", "--hosts", "2"),
        ("--coordinator", "here", "--hosts", "2", "--host", "1"),
        ("--coordinator", "here:1", "--hosts", "2", "--host", "2"),
    ],
)
def test_options_that_do_not_fit(flags):
    with pytest.raises(ValueError, match="expected --coordinator HOST:PORT, --hosts N and --host"):
        hosts.join(_options(*flags))


def test_a_port_that_is_taken():
    """jaxlib would crash."""
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
        with pytest.raises(ValueError, match=f"expected a free port, got {port} .*in use"):
            hosts.join(
                _options("--coordinator", f"localhost:{port}", "--hosts", "2", "--host", "0")
            )


def test_one_host_needs_no_options():
    hosts.join(_options())
    hosts.agree("nothing", 1)
    hosts.leave()
    assert hosts.is_first()
    assert jax.process_count() == 1


def test_a_mesh_of_some_devices():
    assert [device.id for device in hosts.make_mesh(6, 3).devices] == [0, 1, 2]
    assert hosts.make_mesh(16).shape == {"data": 8}


@pytest.mark.parametrize(
    ("batch", "devices", "message"),
    [
        (12, None, "multiple of the 8 devices in use, got 12; give another --batch"),
        (4, 3, "multiple of the 3 devices in use, got 4"),
        (8, 9, "--devices: expected 1 to 8, which a host has, got 9"),
        (8, 0, "--devices: expected 1 to 8, which a host has, got 0"),
    ],
)
def test_a_mesh_that_can_not_be(batch, devices, message):
    with pytest.raises(ValueError, match=message):
        hosts.make_mesh(batch, devices)


def test_rows_and_copies():
    mesh = hosts.make_mesh(6, 3)
    array = np.arange(12, dtype=np.float32).reshape(6, 2)
    rows = hosts.split(mesh, array)
    for number, shard in enumerate(rows.addressable_shards):
        np.testing.assert_array_equal(shard.data, array[2 * number : 2 * number + 2])
    (copy,) = hosts.copy(mesh, [array])
    assert [shard.data.shape for shard in copy.addressable_shards] == [(6, 2)] * 3
    np.testing.assert_array_equal(hosts.local(copy), array)
    assert hosts.local(copy).sharding.device_set == {jax.devices()[0]}
