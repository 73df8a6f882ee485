"""Facts: what side-cars and headers say about a file, who is believed, and how it is written for other tools.

`read` gives the facts of all side-cars of a file, `of_header` those of its own metadata; `settled` chooses among them,
`disagreements` and `contradictions` tell what is wrong, and `export` writes a side-car. Nothing here knows the database.
"""

from adapterhub.registry.facts.application import of_application
from adapterhub.registry.facts.export import Change, Export, export
from adapterhub.registry.facts.fact import FIELDS, Fact, Sort, Value, WrongType, make
from adapterhub.registry.facts.families import FAMILIES
from adapterhub.registry.facts.header import of_header
from adapterhub.registry.facts.precedence import (
    OF_HEADER,
    ORIGINS,
    Disagreement,
    Settled,
    contradictions,
    disagreements,
    rank,
    settled,
)
from adapterhub.registry.facts.sidecars import PREVIEWS, Beside, Listing, Sidecars, read

__all__ = [
    "FAMILIES",
    "FIELDS",
    "OF_HEADER",
    "ORIGINS",
    "PREVIEWS",
    "Beside",
    "Change",
    "Disagreement",
    "Export",
    "Fact",
    "Listing",
    "Settled",
    "Sidecars",
    "Sort",
    "Value",
    "WrongType",
    "contradictions",
    "disagreements",
    "export",
    "make",
    "of_application",
    "of_header",
    "rank",
    "read",
    "settled",
]
