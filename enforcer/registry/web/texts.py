"""All words the portal says, from texts/LANGUAGE.yaml: one file a language, the same keys in each, English where one lacks some."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "texts"
DEFAULT = "en"


class MissingText(KeyError):
    """No language has the key: a mistake in a template or a page."""


@dataclass(frozen=True, slots=True)
class Texts:
    """One language. `t(key, name=value…)` is the sentence with its {name} filled in; plain text, never HTML."""

    language: str
    name: str
    direction: str
    words: Mapping[str, str]
    fallback: Texts | None = None

    def t(self, key: str, **values: Any) -> str:
        """Raises MissingText when neither this language nor English has the key."""
        text = self.words.get(key)
        if text is None:
            if self.fallback is None:
                raise MissingText(f"texts/{self.language}.yaml has no {key!r}")
            return self.fallback.t(key, **values)
        # Filled in one pass: a value that holds braces stays what it is.
        return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), text)

    def has(self, key: str) -> bool:
        return key in self.words or (self.fallback is not None and self.fallback.has(key))

    def count(self, key: str, number: int) -> str:
        """The sentence for a number of things: KEY.one for 1, KEY.many else, with {count}."""
        return self.t(f"{key}.{'one' if number == 1 else 'many'}", count=number)


@dataclass(frozen=True, slots=True)
class Languages:
    """Those that there are, by code."""

    all: Mapping[str, Texts]

    def choose(self, asked: str | None, accepted: str) -> Texts:
        """The language asked for, else the first of an Accept-Language header that there is, else English."""
        weighted: list[tuple[float, int, str]] = []
        for position, part in enumerate(accepted.split(",")[:20]):
            code, _, weight = part.strip().partition(";q=")
            try:
                weighted.append((-float(weight or 1), position, code.lower()))
            except ValueError:
                continue
        for code in [asked or "", *(code for _, _, code in sorted(weighted))]:
            for name in (code, code.split("-")[0]):
                if name in self.all:
                    return self.all[name]
        return self.all[DEFAULT]


def load_languages(folder: Path = FOLDER) -> Languages:
    """Every *.yaml of the folder; English comes from here when the folder has none. Raises ValueError with file and key."""
    english = _load(FOLDER / f"{DEFAULT}.yaml", None)
    found = {DEFAULT: english}
    for path in sorted(folder.glob("*.yaml")):
        if path != FOLDER / f"{DEFAULT}.yaml":
            found[path.stem] = _load(path, english)
    return Languages(found)


def _load(path: Path, fallback: Texts | None) -> Texts:
    from ruamel.yaml.error import YAMLError

    from enforcer.yamlfile import Yaml

    try:
        data = Yaml(typ="safe").load(path)
    except YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: write keys and texts, as in texts/{DEFAULT}.yaml")
    words: dict[str, str] = {}
    _flatten(path, data, "", words)
    if fallback is not None:
        for key, text in words.items():
            wanted = fallback.words.get(key)
            if wanted is None:
                raise ValueError(f"{path}: {key}: texts/{DEFAULT}.yaml has no such key")
            extra = _names(text) - _names(wanted)
            if extra:
                raise ValueError(
                    f"{path}: {key}: {{{min(extra)}}} is nothing this text is given; write one of {sorted(_names(wanted))}"
                )
    name, direction = words.get("language.name", path.stem), words.get("language.direction", "ltr")
    return Texts(path.stem, name, direction, words, fallback)


def _flatten(path: Path, data: dict[Any, Any], prefix: str, words: dict[str, str]) -> None:
    for key, value in data.items():
        if isinstance(value, dict):
            _flatten(path, value, f"{prefix}{key}.", words)
        elif isinstance(value, str):
            words[f"{prefix}{key}"] = value
        else:
            raise ValueError(f"{path}: {prefix}{key}: {value!r} is not text; put it in quotes")


def _names(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))
