"""Makes a served model of your labelled folders: python -m training.retrain FOLDER --name NAME.

Owns its words of refusal and its exit status: whatever can be refused is, before TensorFlow is loaded or a
picture is read. The work itself is steps.py's.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from model_server.engines.keras.quiet_tensorflow import quiet
from training import base_options, labelled_folder, publish
from training.arguments import parser
from training.base_options import BaseError, BaseOptions
from training.labelled_folder import LabelledFolderError
from training.publish import PublishError
from training.splits import refuse_too_few

DONE: Final = 0
IMPOSSIBLE: Final = 2
"""As argparse has it for a command line that it can't read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = parser().parse_args(arguments)
    base = BaseOptions(options.base, options.weights, options.size, options.fit, options.normalise)
    folder: Path = options.models / options.name
    try:
        publish.refuse_existing(folder, replace=options.replace)
        publish.refuse_unwritable(folder, replace=options.replace)
        base_options.refuse_early(base)
        classes, files = labelled_folder.files_of(labelled_folder.opened(options.folder))
        refuse_too_few(classes, (file.label for file in files), which="files")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with quiet():
            from training import steps  # noqa: PLC0415 - it loads TensorFlow, for seconds

            steps.run(options, base, folder, classes, files)
    except (LabelledFolderError, BaseError, PublishError) as error:
        sys.stderr.write(f"{error}.\n")
        return IMPOSSIBLE
    return DONE


if __name__ == "__main__":
    sys.exit(main())
