import errno

import pytest

from alexnet_jax.runtime.user_errors import UserError, report_user_errors


@pytest.mark.parametrize(
    ('error', 'code', 'message'),
    [
        (UserError('wrong:\n  do this'), 2, 'alexnet_jax: wrong: do this\n'),
        (OSError(errno.ENOSPC, 'No space left on device'), 2, 'No space left on device'),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
)
def test_mistakes_of_the_user_are_one_line(capsys, error, code, message):
    with pytest.raises(SystemExit) as ended, report_user_errors():
        raise error
    assert ended.value.code == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('error', [ValueError('a bug'), FileNotFoundError(errno.ENOENT, 'a bug')])
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)), report_user_errors():
        raise error
