"""Which plugins there are and what each may use: `plugins.toml`, read once and checked wholly."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
from attrs import field, frozen

from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import Fault, check_plugin, nearest

__all__ = ["KnownPlugins", "Plugin", "Plugins", "parse_size"]

_UNITS: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE: Final = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB)")
_FLAGS: Final = ("kv", "rows", "inspector", "allow_rollback")
_LONGEST_HISTORY: Final = 64  # JetStream's own
_LARGEST: Final = 2**50


@frozen(kw_only=True)
class Plugin:
    """One plugin of the file.

    Attributes:
        kv: It has a bucket.
        rows: It has tables.
        migrations: The folder of its migrations; None when none was given and the usual one is not there.
        inspector: It may call `storage.admin.>`.
        allow_rollback: Its migrations may be rolled back; None for what the environment allows, which is
            everywhere but in production.
    """

    name: str
    kv: bool = True
    rows: bool = False
    migrations: Path | None = None
    inspector: bool = False
    allow_rollback: bool | None = None
    limits: Limits = field(factory=Limits)


class KnownPlugins(Protocol):
    """What is asked of the plugins, read once or followed."""

    def get(self, name: str) -> Plugin | None:
        """Return a plugin that is declared, or None."""

    def limits_for(self, name: str) -> Limits:
        """Return a plugin's limits; the defaults when it is not declared."""


@frozen(kw_only=True)
class Plugins:
    """The plugins of a file, and the limits of those it does not name.

    Attributes:
        path: The file; None without one.
        default_limits: What `[limits]` says, for plugins made on first use as well.
    """

    path: Path | None = None
    default_limits: Limits = field(factory=Limits)
    plugins: Mapping[str, Plugin] = field(factory=dict)

    @classmethod
    def load(cls, path: Path | None) -> Plugins:
        """Read a file; without one there are no plugins, and the limits are the contract's.

        Raises:
            Fault: `invalid_request` or `invalid_name`, with the file in the message and the place as path.
        """
        if path is None:
            return cls()
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Fault("invalid_request", f"{path} could not be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Fault("invalid_request", f"{path} is no TOML: {error}.") from error
        try:
            return _parse(document, path.absolute())
        except Fault as fault:
            raise Fault(fault.code, f"{path}: {fault.message}", path=fault.path, hint=fault.hint) from fault

    def get(self, name: str) -> Plugin | None:
        """Return a plugin of the file, or None."""
        return self.plugins.get(name)

    def limits_for(self, name: str) -> Limits:
        """Return a plugin's limits; those of `[limits]` when the file does not name it."""
        plugin = self.plugins.get(name)
        return self.default_limits if plugin is None else plugin.limits


def parse_size(value: Any, path: str) -> int:
    """Return bytes from whole bytes, or from text as `"64 KiB"`.

    Raises:
        Fault: `invalid_request`, with `path` as its place.
    """
    if type(value) is int:
        size = value
    elif type(value) is str and (found := _SIZE.fullmatch(value.strip())):
        size = int(found[1]) * _UNITS[found[2]]
    else:
        raise Fault(
            "invalid_request",
            f"{value!r} is no size.",
            path=path,
            hint='Whole bytes, or text with KiB, MiB or GiB, as "64 KiB".',
        )
    return int(_within(size, 1, _LARGEST, path))


def _parse(document: Mapping[str, Any], path: Path) -> Plugins:
    _check_members(document, ("limits", "plugins"), "")
    default_limits = _parse_limits(Limits(), _table(document, "limits", "limits"), "limits")
    plugins = {}
    for name, body in _table(document, "plugins", "plugins").items():
        place = f"plugins.{name}"
        try:
            check_plugin(name)
        except Fault as fault:
            raise fault.at(place) from fault
        if not isinstance(body, dict):
            raise Fault("invalid_request", f"{place} is no table.", path=place, hint=f"As [{place}].")
        plugins[name] = _parse_plugin(name, body, default_limits, path.parent)
    return Plugins(path=path, default_limits=default_limits, plugins=plugins)


def _parse_plugin(name: str, body: Mapping[str, Any], default_limits: Limits, folder: Path) -> Plugin:
    place = f"plugins.{name}"
    _check_members(body, ("kv", "rows", "migrations", "inspector", "allow_rollback", "limits"), place)
    flags = {flag: _flag(body[flag], f"{place}.{flag}") for flag in _FLAGS if flag in body}
    limits = _parse_limits(default_limits, _table(body, "limits", f"{place}.limits"), f"{place}.limits")
    migrations: Path | None = folder / name / "migrations"
    if "migrations" in body:
        text = body["migrations"]
        if type(text) is not str or not text:
            raise Fault("invalid_request", f"{text!r} is no path.", path=f"{place}.migrations")
        migrations = folder / text
    elif migrations is not None and not migrations.is_dir():
        migrations = None
    return Plugin(name=name, migrations=migrations, limits=limits, **flags)


def _parse_limits(base: Limits, body: Mapping[str, Any], place: str) -> Limits:
    _check_members(body, _LIMITS, place)
    given = {name: _LIMITS[name](value, f"{place}.{name}") for name, value in body.items()}
    limits = attrs.evolve(base, **given)
    if limits.value_size > limits.bucket_size:
        raise Fault(
            "invalid_request",
            f"A value of {limits.value_size} bytes does not fit a bucket of {limits.bucket_size}.",
            path=place,
            hint="Raise bucket_size or lower value_size.",
        )
    if "requests_per_second" in given and "burst" not in given:
        # Whoever names the rate alone means the default's proportion, not the default's figure.
        limits = attrs.evolve(limits, burst=max(2 * limits.requests_per_second, 1.0))
    return limits


def _whole(low: int, high: int) -> Callable[[Any, str], int]:
    def parse(value: Any, path: str) -> int:
        if type(value) is not int:
            raise Fault("invalid_request", f"{value!r} is no whole number.", path=path)
        return int(_within(value, low, high, path))

    return parse


def _number(low: float, high: float) -> Callable[[Any, str], float]:
    def parse(value: Any, path: str) -> float:
        if type(value) not in (int, float):
            raise Fault("invalid_request", f"{value!r} is no number.", path=path)
        return float(_within(value, low, high, path))

    return parse


_LIMITS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "value_size": parse_size,
    "bucket_size": parse_size,
    "history": _whole(1, _LONGEST_HISTORY),
    "request_size": parse_size,
    "reply_size": parse_size,
    "rows_per_insert": _whole(1, 100_000),
    "rows_per_page": _whole(1, 100_000),
    "statement_timeout": _number(0.001, 86_400),
    "lock_timeout": _number(0.001, 86_400),
    "migration_timeout": _number(0.001, 86_400),
    "requests_in_flight": _whole(1, 100_000),
    "requests_waiting": _whole(0, 1_000_000),
    "requests_per_second": _number(0.001, 1_000_000),
    "burst": _number(1, 10_000_000),
}


def _within(value: float, low: float, high: float, path: str) -> float:
    if not low <= value <= high:
        raise Fault("out_of_range", f"{value} is not from {low} to {high}.", path=path)
    return value


def _flag(value: Any, path: str) -> bool:
    if type(value) is not bool:
        raise Fault("invalid_request", f"{value!r} is neither true nor false.", path=path)
    return value


def _table(body: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    value = body.get(name, {})
    if not isinstance(value, dict):
        raise Fault("invalid_request", f"{path} is no table.", path=path, hint=f"As [{path}].")
    return value


def _check_members(body: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], place: str) -> None:
    for name in body:
        if name in known:
            continue
        near = nearest(name, known)
        raise Fault(
            "invalid_request",
            f"{name!r} is no member here" + (f"; did you mean {near!r}?" if near else "."),
            path=f"{place}.{name}" if place else name,
            hint="The members are " + ", ".join(known) + ".",
        )
