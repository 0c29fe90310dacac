"""Scripts of launch/ that run with a program in place of Python."""

import contextlib
import os
import signal
import subprocess
import sys

import nets

LAUNCH = nets.ROOT / 'launch'

# Replaces itself by a command that ignores these signals alone, whatever the tests ignore.
WITH_SIGNALS = """
import os, signal, sys
for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
    how = signal.SIG_IGN if name in sys.argv[1].split(",") else signal.SIG_DFL
    signal.signal(getattr(signal, name), how)
os.execvp(sys.argv[2], sys.argv[2:])
"""

# Stands for the program: notes its signals, and ends by the second Ctrl-C or by another signal.
RUN = f"""exec {sys.executable} -IS -c '
import os, signal, sys, time
interrupts = []
def note(number, _):
    os.write(1, f"got {{signal.Signals(number).name}}\\n".encode())  # print may be interrupted
    if number == signal.SIGINT:
        interrupts.append(number)
    if number != signal.SIGINT or len(interrupts) > 1:
        sys.exit(130 if number == signal.SIGINT else 75)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, note)
print("ready", flush=True)
while True:
    time.sleep(60)
'"""


class Launcher:
    """Starts scripts whose Python is a program of the test.

    Attributes:
      folder: where the program lies, and where the scripts run.
    """

    def __init__(self, folder):
        self.folder = folder
        self._processes = []

    def write(self, program):
        """Writes the program, which is in bash, and returns its path."""
        path = self.folder / 'python'
        path.write_text(f'#!/bin/bash\necho $$ >>"{self.folder}/starts"\n{program}\n')
        path.chmod(0o755)
        (self.folder / 'starts').write_text('')
        return path

    def start(self, program, *arguments, script='train.sh', ignored=(), **variables):
        """Starts a script, with the program in place of Python."""
        python = str(self.write(program))
        process = subprocess.Popen(
            [
                *(sys.executable, '-ISc', WITH_SIGNALS, ','.join(ignored)),
                *('bash', LAUNCH / script, *arguments),
            ],
            cwd=self.folder,
            env=os.environ | {'PYTHON': python, 'PAUSE': '0', 'TRIES': '3'} | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def starts(self):
        """Returns the processes that have stood for Python."""
        path = self.folder / 'starts'
        return [int(number) for number in path.read_text().split()] if path.exists() else []

    def close(self):
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for number in self.starts():  # in a test that has failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def wait_for_line(process, text):
    """Waits until a script has printed a line with this text."""
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f'ended without {text!r}')
