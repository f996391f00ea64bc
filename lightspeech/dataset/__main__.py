"""Makes datasets that a teacher can learn from: out of recordings, or with a speech engine.

python -m lightspeech.dataset import DIR --out OUT         recordings with their texts
python -m lightspeech.dataset speak --text FILE --out OUT  texts alone, read by a Debian engine
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

from lightspeech import cli

COMMANDS = {
    "import": ("lightspeech.dataset.importing", "make a dataset of recordings and their texts"),
    "speak": ("lightspeech.dataset.speak", "make a dataset of texts, with a speech engine"),
}
"""Each command's module, which has `add_arguments(parser)` and `main(options)`, and its help."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.dataset",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    for name, (module, help) in COMMANDS.items():
        if name != asked:  # not imported: what one command needs, the other can do without
            commands.add_parser(name, help=help, add_help=False)
            continue
        command = importlib.import_module(module)
        made = commands.add_parser(
            name, help=help, description=command.__doc__, formatter_class=cli.HelpFormatter
        )
        command.add_arguments(made)
        made.set_defaults(run=command.main)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    # Schedulers ask so: end as after Ctrl-C, and keep what was finished.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli.run(main)
