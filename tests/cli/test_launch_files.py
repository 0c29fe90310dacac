"""The files of launch/ for clusters and containers, as far as that goes without a cluster."""

import os
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

import nets
from launching import LAUNCH

SCRIPTS = sorted([*LAUNCH.glob('*.sh'), LAUNCH / 'slurm.sbatch'])
JOBSET = yaml.safe_load((LAUNCH / 'kubernetes' / 'jobset.yaml').read_text())
JOB = JOBSET['spec']['replicatedJobs'][0]['template']['spec']
POD = JOB['template']['spec']
CONTAINER = POD['containers'][0]
VOLUMES = list(yaml.safe_load_all((LAUNCH / 'kubernetes' / 'storage.yaml').read_text()))
DOCKERFILE = (LAUNCH / 'Dockerfile').read_text()
KUBERNETES = '1.33'  # the version whose schema is used


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.name)
def test_scripts_pass_shellcheck(script):
    subprocess.run(['bash', '-n', script], check=True)
    program = shutil.which('shellcheck', path=os.path.dirname(sys.executable))
    done = subprocess.run([program, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def commands_of_files():
    for path in sorted(LAUNCH.rglob('*')):
        if path.is_file():
            for flag in re.findall(r'(?<![\w-])--([a-z_]+)=', path.read_text()):
                if '_' in flag or flag in ('config', 'workdir', 'process', 'processes'):
                    yield path, flag
    for argument in CONTAINER['args']:
        yield LAUNCH / 'jobset.yaml', argument[2:].partition('=')[0].partition('.')[0]


def test_flags_of_the_program_exist():
    sources = [*(nets.ROOT / 'alexnet_jax').glob('*.py')]
    sources += (nets.ROOT / 'alexnet_jax').glob('*/command_line.py')
    sources += (nets.ROOT / 'alexnet_jax').glob('*/process_flags.py')
    defined = ''.join(path.read_text() for path in sources)
    flags = list(commands_of_files())
    assert {flag for _, flag in flags} >= {'config', 'workdir', 'process', 'processes'}
    for path, flag in flags:
        assert f"'{flag}'" in defined, (path.name, flag)


def test_the_manifests_match_the_schema_of_kubernetes():
    """That of the Job in the JobSet, which has no schema in a package, and of the volumes."""
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'a'}, 'spec': JOB}
    for manifest in (job, *VOLUMES):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_job_set_has_the_fields_of_its_version():
    """Fields of jobset.x-k8s.io/v1alpha2 in JobSet 0.10, in jobset_types.go."""
    spec = JOBSET['spec']
    assert (JOBSET['apiVersion'], JOBSET['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    assert spec.keys() == {'network', 'coordinator', 'failurePolicy', 'replicatedJobs'}
    assert spec['network'] == {'enableDNSHostnames': True, 'publishNotReadyAddresses': True}
    assert spec['coordinator'] == {
        'replicatedJob': spec['replicatedJobs'][0]['name'],
        'podIndex': 0,
    }
    assert spec['failurePolicy'].keys() == {'maxRestarts', 'rules'}
    fields = {'name', 'action', 'onJobFailureReasons', 'onJobFailureMessagePatterns'}
    for rule in spec['failurePolicy']['rules']:
        assert rule.keys() <= fields
        assert re.fullmatch('[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
        assert rule['onJobFailureReasons'] == ['PodFailurePolicy']


def restart(code=None, is_evicted=False):
    """Returns what JobSet does when a pod ends, by the rules of Kubernetes and of JobSet."""
    reason, message = 'BackoffLimitExceeded', 'Job has reached the specified backoff limit'
    for index, rule in enumerate(JOB['podFailurePolicy']['rules']):
        exits = rule.get('onExitCodes', {})
        if code in exits.get('values', []) or (is_evicted and 'onPodConditions' in rule):
            what = f'Container {exits.get("containerName")} for pod default/alexnet-train-0-1-x2y3z'
            message = f'{what} failed with exit code {code} matching FailJob rule at index {index}'
            if not exits:
                message = (
                    f'Pod default/a has condition DisruptionTarget matching FailJob rule {index}'
                )
            reason = 'PodFailurePolicy'
            break
    for rule in JOBSET['spec']['failurePolicy']['rules']:
        patterns = rule.get('onJobFailureMessagePatterns', [''])
        if reason in rule['onJobFailureReasons'] and any(re.search(p, message) for p in patterns):
            return rule['action']
    return 'RestartJobSet'


def test_exit_codes_are_told_apart():
    """A mistake ends the JobSet, a run that has saved is restarted, and crashes count."""
    assert {restart(code) for code in (2, 130)} == {'FailJobSet'}
    assert restart(75) == 'RestartJobSetAndIgnoreMaxRestarts'
    assert restart(143, is_evicted=True) == 'RestartJobSetAndIgnoreMaxRestarts'
    assert {restart(code) for code in (1, 69, 134, 137, 139, 143)} == {'RestartJobSet'}
    assert JOB['backoffLimit'] == 0
    assert POD['restartPolicy'] == 'Never'  # which a pod failure policy requires


def test_a_pod_is_a_process():
    environment = {entry['name']: entry for entry in CONTAINER['env']}
    assert JOB['completionMode'] == 'Indexed'
    assert JOB['completions'] == JOB['parallelism']
    assert environment['JAX_NUM_PROCESSES']['value'] == str(JOB['completions'])
    assert environment['JAX_COORDINATOR_PORT']['value'] == str(
        CONTAINER['ports'][0]['containerPort']
    )
    claims = {volume['metadata']['name'] for volume in VOLUMES}
    volumes = {volume['name']: volume for volume in POD['volumes']}
    assert {mount['name'] for mount in CONTAINER['volumeMounts']} == volumes.keys()
    assert claims == {
        volume['persistentVolumeClaim']['claimName']
        for volume in volumes.values()
        if 'persistentVolumeClaim' in volume
    }
    assert all(volume['spec']['accessModes'] == ['ReadWriteMany'] for volume in VOLUMES)
    assert CONTAINER['name'] == JOB['podFailurePolicy']['rules'][0]['onExitCodes']['containerName']


@pytest.mark.slow
@pytest.mark.groups
def test_the_pods_find_each_other(tmp_path):
    """Two real processes with the environment of the pods, except for the coordinator's host."""
    environment = os.environ | {
        entry['name']: entry.get('value', 'localhost') for entry in CONTAINER['env']
    }
    environment |= {
        'JAX_NUM_CPU_DEVICES': '1',
        'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache'),
    }
    flags = ['--config=digits', f'--workdir={tmp_path / "w"}', '--dry_run']
    processes = [
        subprocess.Popen(
            [sys.executable, '-m', 'alexnet_jax.main', *flags],
            cwd=nets.ROOT,
            env=environment | {'JOB_COMPLETION_INDEX': str(index)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(JOB['completions'])
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert 'process 0 of 2 (set by JAX_NUM_PROCESSES and JOB_COMPLETION_INDEX)' in results[0][0]
    rows = re.findall(r'^(\d) +\S+ +cpu:\d+ +0 +(\d)$', results[0][0], re.MULTILINE)
    assert rows == [('0', '0'), ('1', '1')]


def test_the_image_has_what_the_project_needs():
    """The files that are copied exist, and Python gets the signals of the container."""
    for names in re.findall(r'^COPY (.*) \S+$', DOCKERFILE, re.MULTILINE):
        for name in names.split():
            assert (nets.ROOT / name).exists(), name
    constraints = (nets.ROOT / 'constraints.txt').read_text()
    python = re.search(r'Python (3\.\d+)', constraints)[1]
    assert f'ARG PYTHON={python}-' in DOCKERFILE
    assert 'ENTRYPOINT ["tini", "--", "python", "-m", "alexnet_jax.main"]' in DOCKERFILE
    assert re.search(r'^USER 1000$', DOCKERFILE, re.MULTILINE)
    assert POD['securityContext']['runAsUser'] == 1000


def test_the_packages_for_gpus_belong_to_the_version_of_jax():
    text = (LAUNCH / 'cuda13.txt').read_text()
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    versions = dict(line.split('==') for line in lines)
    constraints = (nets.ROOT / 'constraints.txt').read_text()
    assert f'\njax=={versions["jax-cuda13-plugin"]}\n' in constraints
    assert versions['jax-cuda13-pjrt'] == versions['jax-cuda13-plugin']
    assert not [name for name in versions if f'\n{name}==' in constraints]


def test_sky_pilot_mounts_the_volume_that_its_file_describes():
    task = yaml.safe_load((LAUNCH / 'skypilot.yaml').read_text())
    volume = yaml.safe_load((LAUNCH / 'skypilot_volume.yaml').read_text())
    (mount,) = task['volumes']
    assert task['volumes'][mount] == volume['name']
    assert volume['config']['access_mode'] == 'ReadWriteMany'
    folders = ('WORKDIR', 'TFDS_DATA_DIR', 'JAX_COMPILATION_CACHE_DIR')
    assert all(task['envs'][name].startswith(f'{mount}/') for name in folders)
    recovery = task['resources']['job_recovery']
    assert recovery['recover_on_exit_codes'] == [75]
    for part in ('setup', 'run'):
        subprocess.run(['bash', '-n'], input=task[part], text=True, check=True)
    for name in re.findall(r'(?:-c|-r) (\S+)', task['setup']):
        assert (nets.ROOT / name).exists(), name
