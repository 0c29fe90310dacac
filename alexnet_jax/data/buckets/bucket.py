"""Objects in a bucket of Google Cloud Storage (gs://) or of S3 (s3://), read with TensorStore.

TensorStore is there already, because Orbax needs it. It finds the credentials that the tools of
Google and Amazon store, signs requests, and repeats those that fail for a moment.
"""

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import tensorstore as ts

from alexnet_jax.runtime.paths import BUCKET
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, first_line

READS_AT_ONCE = 4  # objects in memory at a time
_SECONDS_BETWEEN_LOOKS = 0.1
_RETRIES = {'max_retries': 4, 'initial_delay': '1s', 'max_delay': '8s'}  # about 20 seconds
_CREDENTIALS = {
    'gs': 'log in with gcloud auth application-default login, or set '
    'GOOGLE_APPLICATION_CREDENTIALS',
    's3': 'log in with aws configure, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and '
    'AWS_SECRET_ACCESS_KEY',
}
_REFUSED = re.compile('PERMISSION_DENIED|UNAUTHENTICATED')


class Bucket:
    """A folder in a bucket, of which objects can be listed and read.

    The variables that the tools of the two providers read apply here, too: AWS_ENDPOINT_URL_S3,
    AWS_ENDPOINT_URL and AWS_REGION for servers that speak S3, TENSORSTORE_GCS_HTTP_URL for one that
    speaks the protocol of Google Cloud Storage.

    Attributes:
      address: the address, without a slash at its end.
      parts: the protocol, the name of the bucket, and the folders.

    Raises:
      UserError: the address is not that of a folder in a bucket.
    """

    def __init__(self, address: str, flag: str) -> None:
        match = BUCKET.match(address)
        protocol, rest = address[:2], address[match.end() :].rstrip('/') if match else ''
        self.parts = (protocol, *rest.split('/'))
        if not match or any(part in ('', '.', '..') for part in self.parts):
            raise UserError(
                f'{flag}={printable(address)} is not the address of a folder in a bucket: write it '
                'as gs://BUCKET/FOLDER or s3://BUCKET/FOLDER'
            )
        self.address = f'{protocol}://{rest}'
        name, _, folder = rest.partition('/')
        spec: dict[str, Any] = {'bucket': name, 'path': f'{folder}/' if folder else ''}
        if protocol == 'gs':
            spec |= {'driver': 'gcs', 'context': {'gcs_request_retries': _RETRIES}}
        else:
            spec |= {'driver': 's3', 'context': {'s3_request_retries': _RETRIES}, **_s3_server()}
        try:
            self._store = ts.KvStore.open(spec).result()
        except ValueError as error:
            raise UserError(
                f'{flag}={printable(address)} cannot be used: {_reason(error)}'
            ) from error

    def list_objects(self, folder: str) -> list[str]:
        """Returns the names of all objects in a folder, relative to this bucket's folder, sorted.

        Raises:
          Stopped: a signal asked this process to stop.
          UserError: the bucket cannot be listed.
        """
        # All names that begin with 'folder/' are before 'folder0', because 0 follows the slash.
        names = self._store.list(ts.KvStore.KeyRange(f'{folder}/', f'{folder}0'))
        try:
            _wait(names)
            if not names.result():
                # TensorStore takes an answer that refuses to list a bucket of Google's for a list
                # of nothing, but reports that an object may not be read.
                _wait(probe := self._store.read(f'{folder}/'))
                probe.result()
            return sorted(os.fsdecode(name) for name in names.result())
        except ValueError as error:
            raise self._error(f'{self.address} cannot be listed', error) from error

    def read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """Yields names and contents of objects, in their order; reads a few ahead.

        Raises:
          Stopped: a signal asked this process to stop.
          UserError: an object is missing or cannot be read.
        """
        pending = {}
        try:
            for index, name in enumerate(names):
                for ahead in names[index : index + READS_AT_ONCE]:
                    if ahead not in pending:
                        pending[ahead] = self._store.read(ahead)
                try:
                    _wait(pending[name])
                    result = pending.pop(name).result()
                except ValueError as error:
                    raise self._error(f'{self.address}/{name} cannot be read', error) from error
                if result.state != 'value':
                    raise UserError(
                        f'{self.address}/{name} is missing: copy the data set to the bucket again'
                    )
                yield name, result.value
        finally:
            for future in pending.values():
                future.cancel()

    def _error(self, problem: str, error: ValueError) -> UserError:
        if _REFUSED.search(str(error)):
            advice = _CREDENTIALS[self.parts[0]]
        elif 'NOT_FOUND' in str(error):
            advice = f'is there a bucket {self.parts[1]}?'
        else:
            advice = 'when the network works, the same command resumes'
        return UserError(f'{printable(problem)} ({_reason(error)}): {advice}')


def _s3_server() -> dict[str, Any]:
    """Returns what the environment says about credentials and servers, as TensorStore's spec."""
    spec: dict[str, Any] = {}
    if os.environ.get('AWS_ACCESS_KEY_ID') and os.environ.get('AWS_SECRET_ACCESS_KEY'):
        # The default looks for other credentials, too, and prints which files it has not found.
        spec['aws_credentials'] = {'type': 'environment'}
    endpoint = os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get('AWS_ENDPOINT_URL')
    if not endpoint:
        return spec  # the region of a bucket at Amazon is looked up
    region = os.environ.get('AWS_REGION') or os.environ.get('AWS_DEFAULT_REGION') or 'us-east-1'
    return spec | {'endpoint': endpoint, 'aws_region': region}


def _wait(future: Any) -> None:
    """Waits for a future of TensorStore, and raises Stopped after a signal."""
    while not future.done():
        raise_if_stopped()
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _reason(error: BaseException) -> str:
    """Returns the start of an error of TensorStore, without the details of its source code."""
    return printable(re.sub(r'\s*\[.*', '', first_line(error)))[:200]
