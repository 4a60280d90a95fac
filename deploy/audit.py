"""`make audit`: are there known vulnerabilities in what the locks install, and a bill of materials of it.

Owns which database is asked, and that no answer is never taken for a good one: pip-audit skips what its
database does not know, and says that nothing was found. Changes nothing that is installed.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from deploy.locks import LOCKS, ROOT, LockedPackage, read

SERVICES: Final = {"pypi": "PyPI", "osv": "OSV"}
"""The databases, as pip-audit calls them, in the order in which they are asked."""

BILL: Final = ROOT / "var" / "sbom.cdx.json"
"""Where the bill of materials goes, of what `make serve` installs: CycloneDX, as JSON."""

CLEAN, VULNERABLE, NOT_ASKED = 0, 1, 2
"""Exit statuses."""

Ask = Callable[[str, Collection[LockedPackage]], dict[str, Any] | None]
"""What pip-audit says, as JSON, of these packages by one database; None: it could not ask."""


def locked() -> list[LockedPackage]:
    """All packages of all locks."""
    return sorted({package for lock in LOCKS for package in read(ROOT / lock)})


def by_pip_audit(service: str, packages: Collection[LockedPackage]) -> dict[str, Any] | None:
    """See Ask. Asks about every package by its version, whatever platform it is for."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(f"{package.name}=={package.version}\n" for package in packages)
        file.flush()
        told = subprocess.run(  # noqa: S603 - our own command, no shell
            [
                *(
                    sys.executable,
                    "-m",
                    "pip_audit",
                    "--requirement",
                    file.name,
                    "--no-deps",
                    "--disable-pip",
                ),
                *("--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        answer: dict[str, Any] = json.loads(told.stdout)
    except ValueError:
        return None
    return answer


def audit(packages: Collection[LockedPackage], ask: Ask = by_pip_audit) -> tuple[int, list[str]]:
    """The exit status, and what to say. CLEAN only if one database has told of every package."""
    lines = []
    for service, name in SERVICES.items():
        answer = ask(service, packages)
        told = {
            LockedPackage(each["name"], each["version"]): each["vulns"]
            for each in (answer or {}).get("dependencies", ())
            if "vulns" in each
        }
        found = [
            f"{package.name} {package.version}: {vulnerability['id']}, mended in "
            f"{', '.join(vulnerability['fix_versions']) or 'no version yet'}"
            for package, vulnerabilities in told.items()
            for vulnerability in vulnerabilities
        ]
        untold = set(packages) - told.keys()
        if found:
            return VULNERABLE, found
        if not untold:
            return CLEAN, [f"{name} knows of no vulnerability in {len(packages)} packages."]
        if not told:
            lines.append(f"{name} could not be asked.")
        else:
            few = ", ".join(sorted(package.name for package in untold)[:5])
            lines.append(f"{name} does not tell of {len(untold)} of {len(packages)} packages, such as {few}.")
    return NOT_ASKED, [*lines, "NOT AUDITED: run it where the JSON API of PyPI, or OSV, answers."]


def write_bill(lock: Path, target: Path) -> None:
    """The bill of materials of a lock: its packages and the hashes of their files, and nothing else."""
    target.parent.mkdir(exist_ok=True)
    subprocess.run(  # noqa: S603 - our own command, no shell
        [
            *(sys.executable, "-m", "cyclonedx_py", "requirements", str(lock), "--output-reproducible"),
            *("--output-format", "JSON", "--output-file", str(target)),
        ],
        check=True,
        capture_output=True,
    )


def main(arguments: Sequence[str] = ()) -> int:
    """Write the bill, and audit unless `--sbom` asks for the bill alone."""
    write_bill(ROOT / next(iter(LOCKS)), BILL)
    sys.stdout.write(f"Bill of materials: {BILL.relative_to(ROOT)}\n")
    if "--sbom" in arguments:
        return CLEAN
    status, lines = audit(locked())
    (sys.stderr if status else sys.stdout).write("\n".join([*lines, ""]))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
