"""A config written out in full: as YAML that loads to an equal config, and key by key with its source."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pretrain.config.load import LoadedConfig
from pretrain.config.node import SourceLocation, dotted
from pretrain.config.schema import keys_of, leaf_keys
from pretrain.config.sections import Config, Section, Source
from pretrain.config.yaml_text import RESOLVERS


class _Dumper(yaml.SafeDumper):
    """Quotes every text that this project or a YAML 1.1 reader would take for something else."""


for _tag, _pattern in RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, _pattern, None)


def config_to_yaml(config: Config) -> str:
    """Every key with its value, including defaults; reading it gives an equal config."""
    text: str = yaml.dump(_values(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def resolved_values(loaded: LoadedConfig) -> Iterator[tuple[str, Any, SourceLocation]]:
    """Key, value and source of every key, in the order of the sections."""
    values = _values(loaded.config)
    for path, _ in leaf_keys(type(loaded.config)):
        value: Any = values
        for part in path:
            value = value[part]
        yield dotted(path), value, loaded.sources[dotted(path)]


def _values(section: Section) -> dict[str, Any]:
    attributes = {field.alias or name: name for name, field in type(section).model_fields.items()}
    return {name: _value(name, getattr(section, attributes[name])) for name in keys_of(type(section))}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return [_source(name, item) if isinstance(item, Source) else _value(name, item) for item in value]
    return _values(value) if isinstance(value, Section) else value


def _source(key: str, source: Source) -> str | Mapping[str, Any]:
    """A source as it is written: its weight only for training, because validation refuses weights."""
    return _values(source) if key == "train" else source.path
