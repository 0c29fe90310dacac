"""Two hosts with one process each: two network namespaces of this machine, joined by a cable.

As on a real network, each process is reached by the address of its own host alone, and the name of
this machine may mean another address. A process cuts the link at a moment of its run.
"""

import os
import shutil
import subprocess

import pytest

import groups
from groups import LOST_SECONDS, SLACK, seconds_from_fault
from runs import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.groups]

TOWERS = {'mesh__tower': 2, 'mesh__data': 1}
ADDRESSES = '10.77.0.1', '10.77.0.2'
NOBODY = '02:00:00:00:00:09'  # an Ethernet address of no host


class Hosts:
    """The network namespaces of two hosts."""

    def __init__(self):
        self.names = [f'alexnet-{os.getpid()}-{host}' for host in range(2)]

    def commands(self, *templates):
        """Returns shell commands for each host, which have its name and the other's address."""
        return '; '.join(
            f'ip -n {name} ' + template.format(other=ADDRESSES[1 - host])
            for host, name in enumerate(self.names)
            for template in templates
        )

    def run(self, *arguments, **options):
        def prefix(process):
            return ['ip', 'netns', 'exec', self.names[process]]

        return groups.run(2, *arguments, address=ADDRESSES[0], prefix=prefix, **options, **TOWERS)

    def set_up(self):
        """Makes the namespaces, and a cable between them."""
        first, second = self.names
        commands = [f'netns add {name}' for name in self.names]
        commands += [f'link add eth0 netns {first} type veth peer name eth0 netns {second}']
        for name, address in zip(self.names, ADDRESSES, strict=True):
            commands += [f'-n {name} address add {address}/24 dev eth0']
            commands += [f'-n {name} link set {device} up' for device in ('eth0', 'lo')]
        for command in commands:
            subprocess.run(['ip', *command.split()], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Skips the test where the program `ip` is missing, or this user must not use it so."""
    if shutil.which('ip') is None:
        pytest.skip('the program ip (iproute2) is not installed')
    two = Hosts()
    try:
        try:
            two.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(f'no network namespaces can be made here: {error.stderr.strip()}')
        yield two
    finally:
        for name in two.names:
            subprocess.run(['ip', 'netns', 'delete', name], capture_output=True)


def test_a_cut_link_ends_both_hosts_and_a_short_gap_does_not(
    hosts, tmp_path, data_dir, trained_run
):
    """The link is cut during a save: packets are lost without an error. Then the run is resumed.

    The second time the cable is unplugged for three seconds. The result is that of one process.
    """
    cut = hosts.commands(f'neigh replace {{other}} lladdr {NOBODY} dev eth0 nud permanent')
    faults = {1: {'kind': 'command', 'command': cut, 'save': 2}}
    group = hosts.run(tmp_path, data_dir, faults=faults)
    assert group.codes == [69, 69], group.err
    assert seconds_from_fault(group) < LOST_SECONDS + SLACK
    for process, text in (0, 'process 0 ends with process 1'), (1, 'process 1 ends with process 0'):
        (line,) = group.lines(process)
        assert f'{text}: it was killed or cannot be reached' in line

    mend = hosts.commands('neigh delete {other} dev eth0')
    subprocess.run(mend, shell=True, check=True)
    unplug = hosts.commands('link set eth0 down')
    plug = hosts.commands('link set eth0 up')
    gap = f'{unplug}; (sleep 3; {plug}) >/dev/null 2>&1 &'  # in the background
    faults = {0: {'kind': 'command', 'command': gap, 'turn': 4}}
    group = hosts.run(tmp_path, data_dir, faults=faults)
    assert group.codes == [0, 0], group.err
    assert seconds_from_fault(group) > 3
    assert_same_run(tmp_path, trained_run)
