"""The model card of an export: that of packed weights where there is one, else a short one, and what was proved."""

from __future__ import annotations

import re

from flatnext.deploy.card import environment, settings_of
from flatnext.deploy.data_notes import NOTES
from flatnext.deploy.export_proof import MAX_LOSS, MOST_DIFFERENCE, Proof
from flatnext.deploy.export_source import Source
from flatnext.models import parameter_count
from flatnext.versions import version_of


def export_card(source: Source, to: str, file: str, proof: Proof, *, own_test: bool) -> str:
    """Return the card of an export in the form `to`, called `file`, as Markdown with the Hub's metadata before it.

    `own_test`: it was proved on the test images of the data set that the model was trained for.
    """
    packed = source.weights.with_suffix(".md")
    known = packed.read_text(encoding="utf-8") if packed.is_file() and source.metadata.get("name") else None
    if known:  # the calibration may be a later one: it is said below, of the file that is exported
        known = re.sub(r"^- \*\*Calibration of answers\*\*.*\n", "", known, flags=re.MULTILINE)
    return (
        environment()
        .get_template("export_card.md.j2")
        .render(
            packed=known,
            own_test=own_test,
            name=source.name,
            config=source.origin.config,
            manifest=source.manifest(),
            normalization=source.origin.normalization,
            architecture=settings_of(source.origin.config.model),
            parameters=parameter_count(source.model),
            data=NOTES[source.origin.config.data.dataset],
            to=to,
            file=file,
            proof=proof,
            most_difference=MOST_DIFFERENCE,
            max_loss=MAX_LOSS,
            version=version_of("flatnext"),
            torch=version_of("torch"),
        )
    )
