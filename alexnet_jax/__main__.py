"""Lists the programs, or runs one of them.

python -m alexnet_jax
    the programs, one line each
python -m alexnet_jax main --config=digits
    the same as python -m alexnet_jax.main --config=digits
"""

import ast
import difflib
import os
import sys
from pathlib import Path

_USAGE = 'python -m alexnet_jax.PROGRAM --help shows the flags of a program.'


def main() -> None:
    """Lists the programs, or replaces this process by one of them."""
    name, *arguments = sys.argv[1:] or ['--help']
    summaries = programs()
    if name in summaries:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, '-m', f'alexnet_jax.{name}', *arguments])
    if name.lstrip('-') in ('help', 'helpshort', 'helpfull', 'h', '?'):
        width = max(map(len, summaries))
        lines = [f'  {program:{width}}  {line}' for program, line in summaries.items()]
        from alexnet_jax.runtime.user_errors import report_user_errors  # a pipe that is closed

        with report_user_errors():
            print('\n'.join(['Programs of alexnet_jax:', *lines, _USAGE]))
        return
    near = difflib.get_close_matches(name, summaries, n=1)
    hint = f'did you mean {near[0]}?' if near else f'the programs are {", ".join(summaries)}'
    print(f'alexnet_jax: there is no program {name!r}: {hint}', file=sys.stderr)
    sys.exit(2)


def programs() -> dict[str, str]:
    """Returns the first line of each program's docstring by name, without importing any."""
    paths = sorted(Path(__file__).parent.glob('[!_]*.py'))
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text('utf-8'))) for path in paths}
    return {name: (doc or '').partition('\n')[0] for name, doc in docs.items()}


if __name__ == '__main__':
    main()
