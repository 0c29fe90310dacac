"""A server on this machine that speaks as much of two protocols as reading buckets needs.

Google Cloud Storage: https://cloud.google.com/storage/docs/json_api (objects: list, get with
alt=media). S3: https://docs.aws.amazon.com/AmazonS3/latest/API (ListObjectsV2, GetObject).
"""

import collections
import http.server
import json
import threading
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class BucketServer(http.server.ThreadingHTTPServer):
    """Serves objects; within a `with` block.

    Attributes:
      objects: contents by 'BUCKET/NAME'.
      reads: how often each object was read.
      status: the status of every answer, if it is not 200.
    """

    daemon_threads = True
    PER_PAGE = 3  # objects of one answer to a request to list, so that there are several

    def __init__(self, objects=()):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.objects, self.reads, self.status = dict(objects), collections.Counter(), 200
        self.url = f'http://127.0.0.1:{self.server_port}'

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def add_folder(self, folder, bucket):
        """Adds the files in a folder; `bucket` is 'BUCKET/FOLDER'."""
        for file in folder.rglob('*'):
            if file.is_file():
                self.objects[f'{bucket}/{file.relative_to(folder)}'] = file.read_bytes()

    def page(self, bucket, start, end, token):
        """Returns the next names in a bucket from `start` until before `end`, and a token."""
        names = sorted(x.removeprefix(bucket) for x in self.objects if x.startswith(bucket))
        names = [name for name in names if start <= name < end]
        first = int(token or 0)
        stop = first + self.PER_PAGE
        return names[first:stop], str(stop) if stop < len(names) else ''


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.server.status != 200:
            error = {'error': {'code': self.server.status, 'message': 'refused'}}
            self._answer(json.dumps(error).encode(), self.server.status)
        elif url.path.startswith('/computeMetadata'):  # not a machine of Google's
            self._answer(b'', 404)
        elif url.path.startswith('/storage/v1/b/'):
            bucket, _, name = url.path.removeprefix('/storage/v1/b/').partition('/o')
            if name:
                self._object(f'{bucket}/{unquote(name[1:])}')
            else:
                self._list_google(f'{bucket}/', query)
        elif 'list-type' in query:
            self._list_amazon(f'{url.path.strip("/")}/', query)
        else:
            self._object(unquote(url.path[1:]))

    def _object(self, name):
        self.server.reads[name] += 1
        data = self.server.objects.get(name)
        self._answer(data or b'', 404 if data is None else 200)

    def _list_google(self, bucket, query):
        names, token = self.server.page(
            bucket, query['startOffset'], query['endOffset'], query.get('pageToken')
        )
        items = [{'name': x} for x in names]
        self._answer(json.dumps({'items': items, 'nextPageToken': token}).encode())

    def _list_amazon(self, bucket, query):
        names, token = self.server.page(
            bucket, query['prefix'], query['prefix'] + '\x7f', query.get('continuation-token')
        )
        contents = ''.join(f'<Contents><Key>{escape(x)}</Key></Contents>' for x in names)
        more = f'<NextContinuationToken>{token}</NextContinuationToken>' if token else ''
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f'<KeyCount>{len(names)}</KeyCount><IsTruncated>{str(bool(token)).lower()}'
            f'</IsTruncated>{contents}{more}</ListBucketResult>'
        )
        self._answer(text.encode())

    def _answer(self, data, status=200):
        self.send_response(status)
        self.send_header('Content-Length', str(len(data)))
        self.send_header('x-goog-generation', '1')
        self.send_header('ETag', '"1"')
        self.end_headers()
        self.wfile.write(data)
