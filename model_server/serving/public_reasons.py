"""Why a model can't be served, as clients and the page may read it: without the paths of this machine.

Owns that shortening. The log has the whole.
"""

import re
from pathlib import Path
from typing import Final

_QUOTED: Final = re.compile(r"""(['"])/(?:(?!\1).)*/((?:(?!\1)[^/])+)\1""")
_BARE: Final = re.compile(r"""(?<![\w/.~-])(?:file://)?/(?!/)(?:[^\s/'"():,;]+/)+([^\s/'"():,;]+)""")
"""An absolute path, but no part of an address, of a relative path or of a type such as image/png."""


def public(reason: str, folder: Path) -> str:
    """`reason` with what lies in the models folder, `folder`'s parent, named from there on.

    Of any other path only the last part is left.
    """
    models = folder.parent.resolve()
    for base in {str(folder.parent.absolute()), str(models)} - {"/"}:
        reason = re.sub(rf"(?<![\w/.-]){re.escape(base)}/", f"{models.name}/", reason)
    return _BARE.sub(r"\1", _QUOTED.sub(r"\1\2\1", reason))
