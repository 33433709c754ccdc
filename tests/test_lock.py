"""`requirements.lock` holds all that the pinned environment has but torch, with hashes, in the versions pinned."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import REPOSITORY

PINNED = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)


def pinned(file: str) -> dict[str, str]:
    text = (REPOSITORY / file).read_text()
    return {canonicalize_name(name): version for name, version in PINNED.findall(text)}


def wanted() -> Iterator[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["dev"]]
    while texts:
        requirement = Requirement(texts.pop())
        texts += [text for extra in requirement.extras if requirement.name == "flatnext" for text in extras[extra]]
        if requirement.name != "flatnext":
            yield requirement


def test_the_lock_has_what_the_project_wants() -> None:
    locked = pinned("requirements.lock") | {"torch": pinned("constraints.txt")["torch"]}
    for requirement in wanted():
        version = locked.get(canonicalize_name(requirement.name), "")
        assert version, f"{requirement.name} is not locked: make lock"
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: make lock"


def test_the_lock_has_the_pinned_versions_each_with_a_hash() -> None:
    locked, pins = pinned("requirements.lock"), pinned("constraints.txt")
    assert {name: pins.get(name) for name in locked} == locked
    assert "torch" not in locked
    text = (REPOSITORY / "requirements.lock").read_text()
    entries = re.split(r"^(?=[\w])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked)
    assert all("--hash=sha256:" in entry for entry in entries)
