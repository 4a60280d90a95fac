"""The locks are what is tested, whole on every platform, and no audit is green that asked nobody."""

import json
import re
from collections.abc import Collection, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import audit, locks
from deploy.audit import CLEAN, NOT_ASKED, VULNERABLE
from deploy.locks import LOCKS, LockedPackage
from tests.support import ROOT

PLATFORMS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_machine": machine,
        "sys_platform": "linux",
    }
    for python in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]


def _requirements(path: Path) -> Iterator[Requirement]:
    """What a file of requirements names, with those that it includes."""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("-r "):
            yield from _requirements(path.parent / line.removeprefix("-r "))
        elif line and not line.startswith(("#", "-")):
            yield Requirement(line)


def _pins(lock: str) -> dict[str, Requirement]:
    """The lines of a lock by name, without their hashes."""
    lines = re.sub(r" \\\n\s+--hash=\S+", "", (ROOT / lock).read_text("utf-8"))
    pins = [Requirement(line) for line in lines.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def _needed(requirement: Requirement, environment: dict[str, str], extras: Collection[str] = ()) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in (*extras, ""))


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_the_tested_versions_and_hashes(lock: str) -> None:
    tested = {
        canonicalize_name(each.name): each.specifier for each in _requirements(ROOT / "constraints.txt")
    }
    packages, text = locks.read(ROOT / lock), (ROOT / lock).read_text("utf-8")
    assert [package.name for package in packages] == list(_pins(lock))
    not_tested = {
        package.name
        for package in packages
        if tested.get(canonicalize_name(package.name)) != _pins(lock)[package.name].specifier
    }
    assert not_tested <= {"brotlicffi", "cffi", "pycparser"}  # of PyPy alone
    for entry in re.split(r"\n(?=[a-z])", text)[1:]:
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)) >= 1, entry


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_whole_on_every_platform(lock: str) -> None:
    """What its requirements name, and what that needs by its own word, for each Python and machine."""
    needs = {canonicalize_name(each.metadata["Name"]): each.requires or [] for each in distributions()}
    cpu = canonicalize_name("tensorflow-cpu")
    needs.setdefault(canonicalize_name("tensorflow"), needs[cpu])  # the other build of the same
    pins = _pins(lock)
    for platform in PLATFORMS:
        environment: dict[str, str] = {**default_environment(), **platform}  # type: ignore[dict-item]
        to_do = [each for each in _requirements(ROOT / LOCKS[lock]) if _needed(each, environment)]
        seen: set[tuple[str, frozenset[str]]] = set()
        while to_do:
            requirement = to_do.pop()
            name = canonicalize_name(requirement.name)
            if (name, frozenset(requirement.extras)) in seen:
                continue
            seen.add((name, frozenset(requirement.extras)))
            assert name in pins, f"run `make lock`: {lock} lacks {name}"
            assert _needed(pins[name], environment), f"{name} is not for {platform}"
            # What is not installed is for another Python than this one, and needs nothing.
            named = map(Requirement, needs.get(name, []))
            to_do += [each for each in named if _needed(each, environment, requirement.extras)]


@pytest.mark.slow
def test_the_bill_of_materials_lists_the_lock(tmp_path: Path) -> None:
    entries = re.split(r"\n(?=[a-z])", (ROOT / "web" / "requirements.lock").read_text("utf-8"))[1:]
    lock = tmp_path / "requirements.lock"  # with two hashes of each package: the tool is slow with many
    lock.write_text("\n".join(" \\\n".join(entry.rstrip().split(" \\\n")[:3]) for entry in entries))
    audit.write_bill(lock, tmp_path / "sbom.json")
    components = json.loads((tmp_path / "sbom.json").read_text("utf-8"))["components"]
    assert {(each["name"], each["version"]) for each in components} == {
        (package.name, package.version) for package in locks.read(lock)
    }
    hashes = [
        found["content"]
        for each in components
        for reference in each["externalReferences"]
        for found in reference["hashes"]
    ]
    assert sorted(hashes) == sorted(re.findall(r"--hash=sha256:([0-9a-f]+)", lock.read_text("utf-8")))


A, B = LockedPackage("a", "1"), LockedPackage("b", "2")
SOUND_A = {"name": "a", "version": "1", "vulns": []}
SOUND_B = {"name": "b", "version": "2", "vulns": []}
UNKNOWN_B = {"name": "b", "skip_reason": "not found"}
BAD_B = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("by_pypi", "by_osv", "status", "words"),
    [
        ([SOUND_A, SOUND_B], None, CLEAN, "PyPI knows of no vulnerability in 2"),
        ([SOUND_A, BAD_B], None, VULNERABLE, "b 2: PYSEC-1, mended in 3"),
        ([UNKNOWN_B, BAD_B], None, VULNERABLE, "PYSEC-1"),
        ([SOUND_A, UNKNOWN_B], None, NOT_ASKED, "does not tell of 1 of 2 packages, such as b"),
        ([SOUND_A], [SOUND_A, SOUND_B], CLEAN, "OSV knows"),
        ([], [], NOT_ASKED, "NOT AUDITED"),
        (None, None, NOT_ASKED, "OSV could not be asked"),
        (None, [SOUND_A, BAD_B], VULNERABLE, "PYSEC-1"),
    ],
)
def test_an_audit_is_clean_only_if_every_package_was_told_of(
    by_pypi: list[object] | None, by_osv: list[object] | None, status: int, words: str
) -> None:
    answers = {"pypi": by_pypi, "osv": by_osv}

    def ask(service: str, packages: Collection[LockedPackage]) -> dict[str, Any] | None:
        assert set(packages) == {A, B}
        told = answers[service]
        return None if told is None else {"dependencies": told}

    got, lines = audit.audit([A, B], ask)
    assert got == status
    assert words in "\n".join(lines)
