"""Settings: frozen dataclasses whose fields say what they may be, grouped as configurations.

    @dataclass(frozen=True)
    class MyTraining:
        steps: int = whole(20000)
        dropout: float = number(0.5, below=1)

        def __post_init__(self) -> None:
            check(self, "my training")

A configuration is a name and such parts; it is stored as JSON, and what is read is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from lightspeech.errors import InputError
from lightspeech.files import read_json

LARGEST_NUMBER = 1e300
"""Larger settings count as infinite: they are typing errors, and no float32 holds them."""

AnySettings = TypeVar("AnySettings")
AnyConfig = TypeVar("AnyConfig", bound="Configuration")

_RULE = "rule"
_Rule = tuple[Callable[[Any], bool], str]
"""what fits, and its name in words"""


def whole(default: int, least: int = 1, most: int | None = None) -> Any:
    """A field that is a whole number of at least `least` and, if given, at most `most`."""
    expected = f"a whole number of at least {least}"
    if most is not None:
        expected = f"a whole number, {least} to {most}"
    highest = 2**63 - 1 if most is None else most  # what an int64 holds
    return _field(default, lambda value: type(value) is int and least <= value <= highest, expected)


def number(
    default: float,
    *,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Any:
    """A field that is a finite number of at least 0, or `above` a number, `below` one, or up to one
    that it may reach (`most`)."""
    expected = "of at least 0" if above is None else f"above {above:g}"
    if below is not None:
        expected += f" and below {below:g}"
    elif most is not None:
        expected = f"from 0 to {most:g}"
    else:
        expected += ", and finite"

    def fits(value: Any) -> bool:
        return (
            type(value) in (int, float)  # no bool
            and (value >= 0 if above is None else above < value)  # no NaN
            and (below is None or value < below)
            and value <= (LARGEST_NUMBER if most is None else most)
        )

    return _field(default, fits, f"a number {expected}")


def choice(default: str, *others: str) -> Any:
    """A field that is one of some words."""
    words = (default, *others)
    return _field(default, lambda value: value in words, f"one of {', '.join(words)}")


def _field(default: Any, fits: Callable[[Any], bool], expected: str) -> Any:
    return field(default=default, metadata={_RULE: (fits, expected)})


def check(settings: Any, what: str) -> None:
    """Checks the fields of a dataclass that say what they may be.

    Args:
        what: names the dataclass in the message.

    Raises:
        InputError: names all that is wrong at once.
    """
    problems = []
    for f in fields(settings):
        rule: _Rule | None = f.metadata.get(_RULE)
        value = getattr(settings, f.name)
        if rule is not None and not rule[0](value):
            problems.append(f"{f.name} must be {rule[1]}, not {value!r}")
    if problems:
        raise InputError(f"{what}: " + "; ".join(problems))


def settings_from(kind: type[AnySettings], values: Any, where: str) -> AnySettings:
    """The inverse of `dataclasses.asdict`: settings from what a JSON file holds.

    Args:
        kind: the dataclass; fields that `values` leaves out have its defaults.
        where: names the source in the message.

    Raises:
        InputError: no JSON object, unknown fields, or values that make no sense.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected a JSON object, not {values!r}")
    unknown = sorted(values.keys() - _names(kind))
    if unknown:
        raise InputError(f"{where} has unknown settings: {', '.join(unknown)}")
    try:
        return kind(**values)
    except ValueError as e:
        raise InputError(f"{where}: {e}") from e


def _names(kind: Any) -> set[str]:
    return {f.name for f in fields(kind)}


@dataclass(frozen=True)
class Configuration:
    """A name, and parts, each a dataclass of settings. What is derived adds the parts.

    One of them is `training`, with `steps`, `learning_rate` and `final_learning_rate`.
    """

    name: str = "custom"

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        """The name of each part, and its dataclass."""
        return {f.name: f.default_factory for f in fields(cls) if f.name != "name"}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls: type[AnyConfig], values: Any, where: str) -> AnyConfig:
        """The inverse of `as_dict`. `where` names the source in the InputError's message."""
        kinds = cls.kinds()
        if not isinstance(values, dict):
            raise InputError(
                f"{where} holds no configuration: expected a JSON object with name, "
                f"{' and '.join(kinds)}"
            )
        unknown = list(values.keys() - kinds.keys() - {"name"})
        for part, kind in kinds.items():
            given = values.get(part, {})
            if not isinstance(given, dict):
                raise InputError(f"{where}: {part} must be an object, not {given!r}")
            unknown += [f"{part}.{name}" for name in given.keys() - _names(kind)]
        if unknown:
            raise InputError(f"{where} has unknown settings: {', '.join(sorted(unknown))}")
        parts = {
            part: settings_from(kind, values.get(part, {}), where) for part, kind in kinds.items()
        }
        return cls(str(values.get("name", "custom")), **parts)

    def override(self: AnyConfig, **training: Any) -> AnyConfig:
        """The same with those settings of its training that are not None replaced.

        A new learning rate moves the one at which the decay ends in proportion, so that the shape
        of the schedule stays.
        """
        own: Any = self
        given = {name: value for name, value in training.items() if value is not None}
        if "learning_rate" in given and "final_learning_rate" not in given:
            ratio = own.training.final_learning_rate / own.training.learning_rate
            given["final_learning_rate"] = given["learning_rate"] * ratio
        changed: AnyConfig = replace(own, training=replace(own.training, **given))
        return changed

    def differences(self: AnyConfig, other: AnyConfig) -> list[str]:
        """`part.name mine, not theirs` for each setting that differs."""
        found = []
        for part in self.kinds():
            ours, theirs = asdict(getattr(self, part)), asdict(getattr(other, part))
            found += [
                f"{part}.{name} {ours[name]!r}, not {theirs[name]!r}"
                for name in ours
                if ours[name] != theirs[name]
            ]
        return found


def load_configuration(
    name_or_path: str | Path, named: Mapping[str, AnyConfig], **given: Any
) -> AnyConfig:
    """One of some named configurations, or one from a JSON file.

    Args:
        named: all of one class; what a file leaves out has the defaults of that class.
        given: parts that are settled already, such as the layers of a model to begin with. What is
            named, and a file without such a part, takes them.

    Raises:
        InputError: no such configuration, values that make no sense, or a file with another part
            than the one given.
    """
    if str(name_or_path) in named:
        return replace(named[str(name_or_path)], **given)
    path = Path(name_or_path)
    if not path.exists():
        raise InputError(
            f"no configuration {str(name_or_path)!r}: expected one of {', '.join(named)}, "
            "or a JSON file"
        )
    values = read_json(path, "configuration")
    if isinstance(values, dict):
        values = {"name": path.stem, **{part: asdict(v) for part, v in given.items()}, **values}
    config = type(next(iter(named.values()))).from_dict(values, str(path))
    differences = config.differences(replace(config, **given))
    if differences:
        raise InputError(
            f"{path} differs from what to begin with ({'; '.join(differences)}): take its "
            f"{' and '.join(given)} out, and that is kept"
        )
    return config
