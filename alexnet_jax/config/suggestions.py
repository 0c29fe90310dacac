"""The settings that may be meant by a name that is not one."""

import difflib
from collections.abc import Iterable

from alexnet_jax.config import settings

# Usual names of settings in other programs.
_ALIASES = {
    'lr': ('learning_rate.initial',),
    'learning_rate': ('learning_rate.initial',),
    'base_lr': ('learning_rate.initial',),
    'scheduler': ('learning_rate.schedule',),
    'lr_schedule': ('learning_rate.schedule',),
    'batch_size': ('optimizer.batch_size',),
    'batch': ('optimizer.batch_size',),
    'train_batch_size': ('optimizer.batch_size',),
    'eval_batch_size': ('evaluation.batch_size',),
    'epochs': ('optimizer.epochs',),
    'num_epochs': ('optimizer.epochs',),
    'max_epochs': ('optimizer.epochs',),
    'momentum': ('optimizer.momentum',),
    'weight_decay': ('optimizer.weight_decay',),
    'wd': ('optimizer.weight_decay',),
    'l2': ('optimizer.weight_decay',),
    'seed': ('seed',),
    'random_seed': ('seed',),
    'dataset': ('dataset.name',),
    'data': ('dataset.name', 'dataset.folder', 'mesh.data'),
    'num_classes': ('dataset.classes',),
    'image_size': ('dataset.image_size',),
    'crop_size': ('augmentation.crop',),
    'flip': ('augmentation.mirror',),
    'num_workers': ('loader.workers',),
    'num_threads': ('loader.threads',),
    'dropout': ('model.fc6.dropout', 'model.fc7.dropout'),
    'dropout_rate': ('model.fc6.dropout', 'model.fc7.dropout'),
    'precision': ('model.precision', 'model.dtype'),
    'matmul_precision': ('model.precision',),
    'tf32': ('model.precision',),
    'allow_tf32': ('model.precision',),
    'devices': ('mesh.tower', 'mesh.data'),
    'num_devices': ('mesh.tower', 'mesh.data'),
    'gpus': ('mesh.tower', 'mesh.data'),
    'log_every': ('log.every_steps',),
}
# The same for the last part of names in several sections.
_PARTS = {
    'activation': 'nonlinearity',
    'batch_norm': 'batch_normalization',
    'batchnorm': 'batch_normalization',
    'bn': 'batch_normalization',
    'channels': 'maps',
    'filters': 'maps',
    'features': 'units',
    'kernel_size': 'kernel',
}
_MOST = 3  # suggestions
_SPELLING = 0.75  # similarity of a misspelled last part, from 0 to 1
_PLACE = 0.6  # similarity of the dotted names, where the section is not the same


def meant(name: str) -> list[str]:
    """Returns the settings that an unknown name may stand for, the most probable first.

    The last part of the name is compared with those of the settings and with usual names in other
    programs; it may be misspelled. At most three settings are returned, and [] if none is similar.
    """
    last = name.rpartition('.')[2]
    return same_name(name) or _misspelled(name, last)


def hint(name: str) -> str:
    """Returns what to do about an unknown name: the settings that may be meant, or the list."""
    names = meant(name) or [x for x in settings.sections() if x.rpartition('.')[2] == name][:_MOST]
    return f'did you mean {" or ".join(names)}?' if names else '--settings lists all settings'


def same_name(name: str) -> list[str]:
    """Returns the settings whose last part, or usual name elsewhere, is the last part of a name."""
    names, last = settings.catalogue(), name.rpartition('.')[2]
    ending = [x for x in names if x == name or x.endswith(f'.{name}')]
    if '.' in name and ending:
        return ending[:_MOST]
    if last in _ALIASES:
        return list(_ALIASES[last])
    part = _PARTS.get(last, last)
    same_section = f'{name.rpartition(".")[0]}.{part}'
    if same_section in names:
        return [same_section]
    return ending[:_MOST] or _near(name, [x for x in names if x.rpartition('.')[2] == part])


def _misspelled(name: str, last: str) -> list[str]:
    names = settings.catalogue()
    parts = {x.rpartition('.')[2] for x in names}
    section = name.rpartition('.')[0]
    here = [x for x in names if x.rpartition('.')[0] == section]
    words = [x.rpartition('.')[2] for x in here] if section else []
    for word in difflib.get_close_matches(last, words, n=1, cutoff=_SPELLING):
        return [f'{section}.{word}']
    for word in difflib.get_close_matches(last, parts | _ALIASES.keys(), n=1, cutoff=_SPELLING):
        if word in _ALIASES:
            return list(_ALIASES[word])
        return _near(name, [x for x in names if x.rpartition('.')[2] == word])
    return []


def _near(name: str, candidates: Iterable[str]) -> list[str]:
    """Returns the candidates in the section of a name or one that is spelled like it."""
    ranked = sorted(candidates, key=lambda x: -_similarity(name, x))
    section, dot, _ = name.partition('.')
    if dot:
        ranked = [
            x for x in ranked if x.startswith(f'{section}.') or _similarity(name, x) >= _PLACE
        ]
    return ranked[:_MOST]


def _similarity(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
