"""Everything that adapterhub prints as JSON or stores: the return values of the Python API and the source of `schemas/`.

A number that is not finite is null in JSON.
"""

import json

from adapterhub.documents.base import Action, Container, Document, Exactness, Failure, Fault, PathText, Problem
from adapterhub.documents.comparison import (
    BlockDifference,
    ComponentDifference,
    Descent,
    Difference,
    ModuleDifference,
    Nearest,
    NearToken,
    NearVector,
    Spectrum,
    TokenTable,
)
from adapterhub.documents.conversion import Approximation, Command, Conversion, LedgerEntry, Source, Target
from adapterhub.documents.hypernetwork import HypernetworkStructure
from adapterhub.documents.inspection import (
    Audit,
    EnergyShare,
    Hashes,
    HeatMap,
    Inspection,
    ListedTensor,
    ModuleSpectrum,
    Part,
    Token,
    Unmeasured,
    Validation,
)
from adapterhub.documents.listings import ArchitectureInfo, LayoutInfo

__all__ = [
    "DOCUMENTS",
    "Action",
    "Approximation",
    "ArchitectureInfo",
    "Audit",
    "BlockDifference",
    "Command",
    "ComponentDifference",
    "Container",
    "Conversion",
    "Descent",
    "Difference",
    "Document",
    "EnergyShare",
    "Exactness",
    "Failure",
    "Fault",
    "Hashes",
    "HeatMap",
    "HypernetworkStructure",
    "Inspection",
    "LayoutInfo",
    "LedgerEntry",
    "ListedTensor",
    "ModuleDifference",
    "ModuleSpectrum",
    "NearToken",
    "NearVector",
    "Nearest",
    "Part",
    "PathText",
    "Problem",
    "Source",
    "Spectrum",
    "Target",
    "Token",
    "TokenTable",
    "Unmeasured",
    "Validation",
    "schema",
]

DOCUMENTS: dict[str, type[Document]] = {
    "inspection": Inspection,
    "validation": Validation,
    "conversion": Conversion,
    "hypernetwork": HypernetworkStructure,
    "difference": Difference,
    "nearest": Nearest,
    "heatmap": HeatMap,
    "layout": LayoutInfo,
    "architecture": ArchitectureInfo,
    "failure": Failure,
}
"""Every public document by the name of its schema."""


def schema(name: str) -> str:
    """The JSON Schema of one document, as the text of its file."""
    body = {"$schema": "https://json-schema.org/draft/2020-12/schema", **DOCUMENTS[name].model_json_schema()}
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
