"""Why a model can't be served, as clients and the page may read it: without what tells of this machine.

Owns that shortening: paths, addresses, and libraries' classes and versions. The log has the whole.
"""

import re
from pathlib import Path
from typing import Final

_QUOTED: Final = re.compile(r"""(['"])/(?:(?!\1).)*/((?:(?!\1)[^/])+)\1""")
_BARE: Final = re.compile(r"""(?<![\w/.~-])(?:file://)?/(?!/)(?:[^\s/'"():,;]+/)+([^\s/'"():,;]+)""")
"""An absolute path, but no part of an address, of a relative path or of a type such as image/png."""

_URL: Final = re.compile(r"""\b[a-z][a-z0-9+.-]*://[^\s'"<>(),;]*[^\s'"<>(),;:.]""", re.IGNORECASE)

_HOST: Final = re.compile(
    r"(?<![\w.])(?:(?:\d{1,3}\.){3}\d{1,3}|\[[0-9a-f]*:[0-9a-f:]+\])(?![\w.]*\d)(?::\d+)?"
)
"""An IP address, as the system's errors have it."""

_ERROR_CLASS: Final = re.compile(r"\b(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Warning)\b(: +)?")
_OBJECT: Final = re.compile(r"<[^<>]*\b0x[0-9a-f]+[^<>]*>|<class '[^']*'>")

_SOURCE: Final = re.compile(r"(?:[\w.+-]+/)+[\w.+-]+\.(?:cpp|cc|cxx|hpp|h)(?::\d+)+")
"""Where in a library's own code it failed."""

_VERSION: Final = re.compile(r"(?<=[A-Za-z]) v?\d+\.\d+\.\d+[\w.+-]*\b")
"""A library's, after its name. Ours name at most the first two numbers."""


def public(reason: str, folder: Path) -> str:
    """`reason` with what lies in the models folder, `folder`'s parent, named from there on.

    Of any other path, and of a URL, only the last part is left.
    """
    models = folder.parent.resolve()
    for base in {str(folder.parent.absolute()), str(models)} - {"/"}:
        reason = re.sub(rf"(?<![\w/.-]){re.escape(base)}/", f"{models.name}/", reason)
    reason = _HOST.sub("an address", _URL.sub(_file_of, reason))
    reason = _OBJECT.sub("an object", _SOURCE.sub("its own code", reason))
    reason = _ERROR_CLASS.sub(lambda found: "" if found[1] else "an error", _VERSION.sub("", reason))
    return _BARE.sub(r"\1", _QUOTED.sub(r"\1\2\1", reason))


def _file_of(url: re.Match[str]) -> str:
    """The name of the file at a URL, without its query; a host has none."""
    path = url[0].partition("://")[2].partition("?")[0].partition("/")[2]
    return path.rpartition("/")[2] or "an address"
