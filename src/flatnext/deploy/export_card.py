"""The model card of an export: that of packed weights where there is one, else a short one, and what was proved."""

from __future__ import annotations

from flatnext.deploy.card import environment, settings_of
from flatnext.deploy.data_notes import NOTES
from flatnext.deploy.export_proof import MAX_LOSS, MOST_DIFFERENCE, Proof
from flatnext.deploy.export_source import Source
from flatnext.models import parameter_count
from flatnext.versions import version_of


def export_card(source: Source, to: str, file: str, proof: Proof) -> str:
    """Return the card of an export in the form `to`, called `file`, as Markdown with the Hub's metadata before it."""
    packed = source.weights.with_suffix(".md")
    known = packed.read_text(encoding="utf-8") if packed.is_file() and source.metadata.get("name") else None
    return (
        environment()
        .get_template("export_card.md.j2")
        .render(
            packed=known,
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
