"""Options that several commands share: the fields of `Config`, methods and seeds, and the output folder."""

import dataclasses
import typing

from keras_logit_adjust.compare import GROUPS, METHODS, Config
from keras_logit_adjust.compare.config import flag_of

DATASET = {"name": "--dataset"}


def _plainly(kind):
    """`kind`, int or float, for numbers as people write them: Python itself reads 9_0 as 90."""

    def parse(text):
        if "_" in text or not text.isascii():
            raise ValueError(text)
        return kind(text)

    parse.__name__ = kind.__name__  # messages of argparse show this name
    return parse


whole, real = _plainly(int), _plainly(float)


def add_command(subparsers, name, run, *, help, renamed=None, **options):
    """The parser of a command that `run` executes; `renamed` is `{argument: option}` for different names."""
    parser = subparsers.add_parser(name, help=help, **options)
    parser.set_defaults(run=run, parser=parser, renamed=renamed or {})
    return parser


def add_config(parser, groups, *, without=()):
    """The options of the fields of `Config` in some groups."""
    added = {name: parser.add_argument_group(name) for name in groups}
    for field in dataclasses.fields(Config):
        if field.metadata["group"] not in groups or field.name in without:
            continue
        parsing = {key: value for key, value in field.metadata.items() if key not in ("group", "flag")}
        if "choices" not in parsing:
            kind = next(iter(typing.get_args(field.type)), field.type)
            parsing["type"] = {int: whole, float: real}.get(kind, kind)
        added[field.metadata["group"]].add_argument(flag_of(field), dest=field.name, default=field.default, **parsing)


def config_of(options):
    """The `Config` of the options."""
    known = [field.name for field in dataclasses.fields(Config)]
    return Config(**{name: value for name, value in vars(options).items() if name in known})


def add_methods(parser, default):
    names = f"comma-separated, of {', '.join(METHODS)}; paper is table 3: {', '.join(GROUPS['paper'])}"
    parser.add_argument(
        "--methods", type=lambda text: [name.strip() for name in text.split(",")], default=default, help=names
    )


def add_seeds(parser):
    redrawn = "each redraws the initialization, and the subset if one is drawn"
    parser.add_argument("--seeds", type=whole, default=3, help=f"how many; {redrawn} (3)")


def add_output(parser, files):
    parser.add_argument("--output", metavar="DIR", help=f"keep {files} here")
