"""Launchers are found by what they set in the environment, and flags win over them."""

import pytest
from absl import flags

from alexnet_jax.processes import process_flags
from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.starting import gpus, launchers
from alexnet_jax.processes.starting.launchers import detect, first_host
from alexnet_jax.runtime.user_errors import UserError


def slurm(**variables):
    """The environment of task 5 of a step of 8 tasks on 2 nodes with 8 GPUs each."""
    return {
        'SLURM_JOB_ID': '1000',
        'SLURM_STEP_ID': '3',
        'SLURM_STEP_NODELIST': 'node[07-08]',
        'SLURM_NTASKS': '8',
        'SLURM_STEP_NUM_TASKS': '8',
        'SLURM_STEP_NUM_NODES': '2',
        'SLURM_STEP_TASKS_PER_NODE': '4(x2)',
        'SLURM_PROCID': '5',
        'SLURM_LOCALID': '1',
        'SLURM_NODEID': '1',
        'SLURM_GPUS_ON_NODE': '8',
        'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7',
    } | {name: str(value) for name, value in variables.items()}


def open_mpi(**variables):
    """The environment of process 1 of 2 on one host."""
    return {
        'OMPI_COMM_WORLD_SIZE': '2',
        'OMPI_COMM_WORLD_RANK': '1',
        'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
        'OMPI_COMM_WORLD_LOCAL_RANK': '1',
        'PMIX_NAMESPACE': 'prterun-host-4711@1',
    } | {name: str(value) for name, value in variables.items()}


def skypilot(**variables):
    """The environment of the second of two nodes."""
    return {
        'SKYPILOT_NUM_NODES': '2',
        'SKYPILOT_NODE_RANK': '1',
        'SKYPILOT_NODE_IPS': '10.0.0.7\n10.0.0.9\n',
        'SKYPILOT_TASK_ID': 'sky-2026-11-26-10-00-00-000000_alexnet_1',
        'CUDA_VISIBLE_DEVICES': '0,1,2,3',
    } | {name: str(value) for name, value in variables.items()}


def kubeflow(**variables):
    """The environment of process 1 of 4."""
    return {
        'JAX_NUM_PROCESSES': '4',
        'JAX_PROCESS_ID': '1',
        'JAX_COORDINATOR_ADDRESS': 'net-0.net:6666',
    } | {name: str(value) for name, value in variables.items()}


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


class TestOneProcess:
    @pytest.mark.parametrize(
        'environment',
        [
            {},
            {'CUDA_VISIBLE_DEVICES': '0,1', 'JAX_LOCAL_DEVICE_IDS': '0'},
            {'JAX_COORDINATOR_ADDRESS': 'host:1'},
            {'JOB_COMPLETION_INDEX': '0', 'KUBERNETES_SERVICE_HOST': '10.0.0.1'},
            {'JAX_NUM_PROCESSES': '1'},
            kubeflow(JAX_NUM_PROCESSES=1, JAX_PROCESS_ID=0),
            slurm(SLURM_STEP_NUM_TASKS=1, SLURM_PROCID=0),
            open_mpi(OMPI_COMM_WORLD_SIZE=1, OMPI_COMM_WORLD_RANK=0),
            skypilot(SKYPILOT_NUM_NODES=1, SKYPILOT_NODE_RANK=0),
        ],
    )
    def test_a_laptop_and_launchers_of_one_process(self, environment):
        assert detect(environment) is None

    def test_a_batch_script_of_slurm_is_no_step(self):
        """Its variables describe the tasks that srun would start."""
        assert detect(without(slurm(SLURM_PROCID=0), 'SLURM_STEP_NODELIST')) is None

    @pytest.mark.parametrize('step', [0xFFFFFFFA, 0xFFFFFFFB])
    def test_the_shell_of_salloc_is_no_step(self, step):
        assert detect(slurm(SLURM_STEP_ID=step, SLURM_PROCID=0)) is None

    def test_a_flag_ignores_the_launcher(self):
        assert detect(slurm(), processes=1) is None

    def test_a_script_for_any_number_may_start_one(self):
        assert detect({}, 1, 0, 'localhost:4711') is None


class TestFlags:
    def test_they_say_all(self):
        launch = detect({}, 2, 1, 'host:4711', '0,1')
        assert launch == Launch(2, 1, 'host:4711', (0, 1), 'set by --processes and --process')

    @pytest.mark.parametrize('environment', [slurm(), open_mpi(), skypilot(), kubeflow()])
    def test_they_win_over_launchers(self, environment):
        launch = detect(environment, 3, 2, 'host:4711')
        assert (launch.count, launch.index, launch.coordinator) == (3, 2, 'host:4711')

    def test_the_coordinator_alone_completes_what_a_launcher_says(self):
        assert detect(slurm(), coordinator='host:4711').coordinator == 'host:4711'

    @pytest.mark.parametrize(
        ('values', 'line'),
        [
            ((2, None, 'host:1'), '--processes=2 needs --process, the number of this one, from 0'),
            ((None, 1, 'host:1'), '--process=1 needs --processes, the number of all processes'),
            ((2, 1), 'the address of process 0 is unknown (set by --processes and --process): g'),
            ((2, 2, 'host:1'), 'there is no process 2 of 2 (set by --processes and --process)'),
            ((1, 1, 'host:1'), 'there is no process 1 of 1'),
            ((None, None, 'host:1'), '--coordinator needs --processes and --process: no launcher'),
            ((None, None, None, '0'), '--local_devices needs --processes and --process: no laun'),
            ((1, 0, 'host:1', '0'), '--local_devices is for several processes, and this is the o'),
            ((2, 1, 'host'), '--coordinator=host has no port: write HOST:PORT, or set JAX_COORD'),
            ((2, 1, 'host:x'), '--coordinator: host:x is not HOST:PORT with a port from 1 to'),
            ((2, 1, 'host:65536'), '--coordinator: host:65536 is not HOST:PORT with a port from'),
            ((2, 1, ':1'), '--coordinator: :1 is not HOST:PORT with a port from 1 to 65535'),
            ((2, 1, 'host:1', 'all'), '--local_devices=all is not a list of numbers: write, for'),
            ((2, 1, 'host:1', '1,1'), '--local_devices=1,1 names a device twice'),
        ],
    )
    def test_what_is_missing_or_wrong_is_one_line(self, values, line):
        with pytest.raises(UserError) as error:
            detect({}, *values)
        assert str(error.value).startswith(line)
        assert '\n' not in str(error.value)

    def test_processes_at_localhost_divide_the_gpus(self):
        assert detect({}, 2, 1, 'localhost:1', gpus=4).local_devices == (2, 3)
        assert detect({}, 2, 1, '[::1]:1', gpus=4).local_devices == (2, 3)
        assert detect({}, 2, 1, 'host:1', gpus=4).local_devices is None

    def test_their_defaults_leave_one_process(self, monkeypatch):
        for name in [*slurm(), *open_mpi(), *skypilot(), *kubeflow(), 'JOB_COMPLETION_INDEX']:
            monkeypatch.delenv(name, raising=False)
        flags.FLAGS(['test'])
        assert process_flags.launch() is None
        assert process_flags.start_timeout() == 300
        assert process_flags.hang_timeout() == 180


class TestSlurm:
    def test_a_step_of_many_tasks(self):
        port = 61440 + (1000 + 3 * 257) % 4096
        source = 'a Slurm step of 8 tasks on 2 nodes'
        assert detect(slurm()) == Launch(8, 5, f'node07:{port}', (2, 3), source)

    def test_a_step_of_fewer_tasks_than_the_job(self):
        assert detect(slurm(SLURM_NTASKS=16)).count == 8
        assert detect(without(slurm(SLURM_NTASKS=16), 'SLURM_STEP_NUM_TASKS')).count == 16

    def test_steps_and_jobs_have_their_own_ports(self):
        ports = {
            detect(slurm(SLURM_JOB_ID=job, SLURM_STEP_ID=step)).coordinator
            for job in range(1000, 1050)
            for step in range(10)
        }
        assert len(ports) == 500

    def test_the_port_may_be_given(self):
        assert detect(slurm(JAX_COORDINATOR_PORT=4711)).coordinator == 'node07:4711'
        assert detect(slurm(JAX_COORDINATOR_ADDRESS='a:1')).coordinator == 'a:1'

    def test_one_task_on_each_node_takes_all_gpus(self):
        """JAX alone would take one GPU of each node, and leave the others unused."""
        environment = slurm(SLURM_STEP_NUM_TASKS=2, SLURM_PROCID=1, SLURM_LOCALID=0)
        assert detect(environment).local_devices is None

    @pytest.mark.parametrize(
        ('tasks', 'node', 'expected'),
        [('4(x2)', 0, (2, 3)), ('8,2', 0, (1,)), ('6,2', 1, (4, 5, 6, 7)), ('1(x1),4', 1, (2, 3))],
    )
    def test_the_tasks_of_a_node_divide_its_gpus(self, tasks, node, expected):
        environment = slurm(SLURM_STEP_TASKS_PER_NODE=tasks, SLURM_NODEID=node)
        assert detect(environment).local_devices == expected

    def test_every_gpu_is_used_once(self):
        launches = [detect(slurm(SLURM_LOCALID=local)) for local in range(4)]
        assert [i for launch in launches for i in launch.local_devices] == list(range(8))

    def test_gpus_that_cannot_be_divided_are_refused(self):
        environment = slurm(CUDA_VISIBLE_DEVICES='0,1,2', SLURM_GPUS_ON_NODE=3)
        with pytest.raises(UserError, match='3 GPUs cannot be divided evenly among 4 processes'):
            detect(environment)

    @pytest.mark.parametrize(
        'variables',
        [
            {'CUDA_VISIBLE_DEVICES': '0', 'SLURM_GPUS_ON_NODE': 4},
            {'CUDA_VISIBLE_DEVICES': '2,3', 'SLURM_GPUS_ON_NODE': 8},
            {'CUDA_VISIBLE_DEVICES': '0', 'SLURM_GPUS_ON_NODE': 1, 'SLURM_GPUS_PER_TASK': 1},
            {'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_GPUS_ON_NODE': 2, 'SLURM_GPUS_PER_TASK': 'h:2'},
        ],
    )
    def test_a_task_that_sees_only_its_own_gpus_takes_them(self, variables):
        assert detect(slurm(**variables)).local_devices is None

    def test_without_a_mask_the_gpus_of_the_node_count(self):
        assert detect(without(slurm(), 'CUDA_VISIBLE_DEVICES')).local_devices == (2, 3)

    def test_without_gpus(self):
        environment = without(slurm(), 'CUDA_VISIBLE_DEVICES', 'SLURM_GPUS_ON_NODE')
        assert detect(environment).local_devices is None
        assert detect(slurm(JAX_PLATFORMS='cpu')).local_devices is None
        assert detect(slurm(CUDA_VISIBLE_DEVICES='')).local_devices is None

    def test_named_devices_win(self):
        assert detect(slurm(JAX_LOCAL_DEVICE_IDS='6,7')).local_devices == (6, 7)
        assert detect(slurm(JAX_LOCAL_DEVICE_IDS='6,7'), local_devices='0').local_devices == (0,)

    def test_a_variable_that_is_no_number_is_named(self):
        with pytest.raises(UserError, match='SLURM_PROCID=one in the environment is not a whole'):
            detect(slurm(SLURM_PROCID='one'))


@pytest.mark.parametrize(
    ('hosts', 'first'),
    [
        ('node01', 'node01'),
        ('node01,node02', 'node01'),
        ('node[01-03,07],gpu-a', 'node01'),
        ('node[007,010-012]', 'node007'),
        ('gpu-a,node[01-03]', 'gpu-a'),
        ('rack1-[1-2]n[3-4]', 'rack1-1n3'),
        ('r[2,4]-n[09-10]-ib,x', 'r2-n09-ib'),
    ],
)
def test_the_first_host_of_a_list(hosts, first):
    assert first_host(hosts) == first


class TestOpenMpi:
    def test_on_one_host(self):
        launch = detect(open_mpi(CUDA_VISIBLE_DEVICES='0,1'))
        host, port = launch.coordinator.split(':')
        assert launch[:2] == (2, 1)
        assert host == 'localhost'
        assert 61440 <= int(port) < 65536
        assert launch.local_devices == (1,)
        assert launch.source == 'Open MPI with 2 processes'

    def test_all_processes_of_a_job_have_one_port_and_other_jobs_another(self):
        first, second = open_mpi(), open_mpi(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_LOCAL_RANK=0)
        other = open_mpi(PMIX_NAMESPACE='prterun-host-4712@1')
        assert detect(first).coordinator == detect(second).coordinator
        assert detect(first).coordinator != detect(other).coordinator

    def test_on_several_hosts_a_coordinator_is_needed(self):
        environment = open_mpi(OMPI_COMM_WORLD_SIZE=4)
        with pytest.raises(UserError, match=r'Open MPI with 4 processes\): give --coordinator='):
            detect(environment)
        assert detect(environment, coordinator='a:1').coordinator == 'a:1'
        assert detect(environment | {'JAX_COORDINATOR_ADDRESS': 'b:1'}).coordinator == 'b:1'

    def test_without_an_identity_a_port_is_needed(self):
        environment = without(open_mpi(), 'PMIX_NAMESPACE')
        with pytest.raises(UserError, match='localhost has no port: write HOST:PORT, or set JAX_'):
            detect(environment)
        launch = detect(environment | {'JAX_COORDINATOR_PORT': '4711'})
        assert launch.coordinator == 'localhost:4711'

    def test_within_slurm_it_is_mpirun_that_counts(self):
        """Mpirun starts one helper a node by srun; the processes inherit its variables."""
        assert detect(slurm() | open_mpi())[:2] == (2, 1)


class TestKubernetes:
    def test_kubeflow(self):
        source = 'set by JAX_NUM_PROCESSES and JAX_PROCESS_ID'
        assert detect(kubeflow()) == Launch(4, 1, 'net-0.net:6666', None, source)

    def test_a_job_set(self):
        environment = without(kubeflow(JOB_COMPLETION_INDEX=3), 'JAX_PROCESS_ID')
        source = 'set by JAX_NUM_PROCESSES and JOB_COMPLETION_INDEX'
        assert detect(environment) == Launch(4, 3, 'net-0.net:6666', None, source)

    def test_the_port_may_be_a_variable_of_its_own(self):
        environment = kubeflow(JAX_COORDINATOR_ADDRESS='net-0.net', JAX_COORDINATOR_PORT=4711)
        assert detect(environment).coordinator == 'net-0.net:4711'

    @pytest.mark.parametrize(
        ('environment', 'line'),
        [
            (without(kubeflow(), 'JAX_NUM_PROCESSES'), 'JAX_PROCESS_ID is set, but not JAX_NUM'),
            (without(kubeflow(), 'JAX_PROCESS_ID'), 'JAX_NUM_PROCESSES is set, but not JAX_PROC'),
            (without(kubeflow(), 'JAX_COORDINATOR_ADDRESS'), 'the address of process 0 is unknown'),
            (kubeflow(JAX_PROCESS_ID=4), 'there is no process 4 of 4'),
            (kubeflow(JAX_NUM_PROCESSES=0), 'there is no process 1 of 0'),
            (kubeflow(JAX_NUM_PROCESSES='four'), 'JAX_NUM_PROCESSES=four in the environment is no'),
            (kubeflow(JAX_COORDINATOR_ADDRESS='net-0'), 'JAX_COORDINATOR_ADDRESS=net-0 has no po'),
            (
                {'JOB_COMPLETION_INDEX': '1', 'JAX_COORDINATOR_ADDRESS': 'net-0:1'},
                'JOB_COMPLETION_INDEX and JAX_COORDINATOR_ADDRESS are set, but not JAX_NUM_PROC',
            ),
        ],
    )
    def test_what_is_missing_or_wrong_is_one_line(self, environment, line):
        with pytest.raises(UserError) as error:
            detect(environment)
        assert str(error.value).startswith(line)

    def test_an_index_alone_may_be_overruled(self):
        environment = {'JOB_COMPLETION_INDEX': '1', 'JAX_COORDINATOR_ADDRESS': 'net-0:1'}
        assert detect(environment, processes=1) is None


class TestSkyPilot:
    def test_each_node_has_a_process_with_all_gpus(self):
        launch = detect(skypilot())
        assert launch[:2] == (2, 1)
        assert launch.coordinator.startswith('10.0.0.7:6')
        assert launch.local_devices is None
        assert launch.source == 'SkyPilot with 2 nodes'

    def test_all_nodes_of_a_task_have_one_port(self):
        first = detect(skypilot(SKYPILOT_NODE_RANK=0)).coordinator
        assert detect(skypilot()).coordinator == first
        assert detect(skypilot(SKYPILOT_TASK_ID='another')).coordinator != first

    def test_ipv6(self):
        launch = detect(skypilot(SKYPILOT_NODE_IPS='fd00::7\nfd00::9', JAX_COORDINATOR_PORT=1))
        assert launch.coordinator == '[fd00::7]:1'
        assert launchers.split_address(launch.coordinator) == ('fd00::7', 1)


def test_gpus_are_counted_by_their_device_files(tmp_path):
    for name in ('nvidia0', 'nvidia3', 'nvidiactl', 'nvidia-uvm', 'nvidia-caps', 'null'):
        (tmp_path / name).touch()
    assert gpus.count_gpus(tmp_path) == 2


def test_cuda_ignores_what_follows_a_device_that_does_not_exist():
    assert gpus.parse_visible_devices('0, 2,-1,1') == ['0', '2']
    assert gpus.parse_visible_devices('') == []
