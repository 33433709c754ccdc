"""`flatnext evidence`: measurements of trained weights beyond accuracy, kept beside them for the report."""

from __future__ import annotations

import argparse

from flatnext.cli.evaluate import TRAINING_ONLY, add_weights_arguments, overrides_of
from flatnext.cli.flags import add_flags_of, add_place_flags, add_setting_flags, data_dir, given, path
from flatnext.cli.report import write
from flatnext.errors import InputError
from flatnext.evidence.plan import EvidencePlan
from flatnext.runs.evidence import MEASUREMENTS

HELP = "measure calibration, errors, flatness, corruptions and attacks of trained weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evidence`."""
    parser.usage = "flatnext evidence PATH|NAME [options]"
    parser.description = f"{parser.description} The results are kept in RUN/evidence.json: docs/evidence.md."
    add_weights_arguments(parser, "; or a study, of which every run is measured")
    parser.add_argument(
        "--measurements",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"{', '.join(MEASUREMENTS)} (default: all of them)",
    )
    parser.add_argument("--output", type=path, metavar="FILE", help="file of the results (default RUN/evidence.json)")
    parser.add_argument(
        "--overwrite", action="store_true", help="measure again what is there already; replace a file of other weights"
    )
    parser.add_argument(
        "--test-set",
        type=path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="score other test sets of the same classes as well: folders of CLASS/*.png, .npz files, or the .npy files "
        "of CIFAR-10.1",
    )
    parser.add_argument(
        "--cifar10-c", type=path, metavar="DIR", help="corruptions: also measure on the published CIFAR-10-C in DIR"
    )
    add_flags_of(EvidencePlan, parser.add_argument_group("measurements"))
    add_place_flags(parser)
    add_setting_flags(parser, "data", "model", without=TRAINING_ONLY, defaults=None)


def run(options: argparse.Namespace) -> int:
    """Measure each run, print its file, and write the report anew where there is one run folder or study.

    The status is 1 if some of the runs could not be measured.
    """
    plan = EvidencePlan(**given(EvidencePlan, options))

    from flatnext.evidence.gather import gather, run_folders
    from flatnext.progress import ConsoleDisplay
    from flatnext.runs.folder import RunFolder

    folders = run_folders(options.path)
    if options.output and len(folders) > 1:
        raise InputError(f"--output is for one model: {options.path} holds {len(folders)} runs, which keep their own")
    errors = []
    for folder in folders:
        try:
            file = gather(
                folder,
                options.measurements or ["all"],
                plan,
                output=options.output,
                checkpoint=options.checkpoint,
                test_sets=options.test_set,
                cifar10_c=options.cifar10_c,
                data_dir=data_dir(options, folder),
                device=options.device,
                download=options.download,
                overwrite=options.overwrite,
                overrides=overrides_of(options),
                display=ConsoleDisplay(),
                command=options.command_line,
            )
        except InputError as error:  # a run that cannot be measured does not keep the others from it
            errors.append(error)
            continue
        print(file)
    if len(errors) == len(folders):
        raise errors[0]
    of_runs = all(RunFolder(folder).finished() for folder in folders)  # not of a folder of weights alone
    if of_runs and not options.output and options.checkpoint != "best":  # the report is on the last
        write([options.path], options.path)
    for failure in errors:
        ConsoleDisplay().say(f"flatnext: error: {failure}")
    return 1 if errors else 0
