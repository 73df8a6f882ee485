"""Everything that adapterhub prints as JSON or stores: the return values of the Python API and the source of `schemas/`.

A number that is not finite is null in JSON.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from adapterhub.documents.base import Action, Container, Document, Exactness, Failure, Fault, PathText, Problem
    from adapterhub.documents.comparison import (
        BlockDifference,
        ComponentDifference,
        Descent,
        Difference,
        ExtraDifference,
        ModuleDifference,
        Nearest,
        NearToken,
        NearVector,
        Spectrum,
        TokenTable,
    )
    from adapterhub.documents.compatibility import Compatibility, Misfit, ModelFit, Reason, Verdict
    from adapterhub.documents.conversion import (
        Approximation,
        Command,
        Conversion,
        Forecast,
        Ingredient,
        LedgerEntry,
        Recipe,
        Source,
        Target,
    )
    from adapterhub.documents.header import Cleaning, FieldChange, FileStamp, HeaderMetadata, Redaction, Thumbnail
    from adapterhub.documents.hub import HubModel, HubSearch, Pulled, PulledFile
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
    from adapterhub.documents.keeping import (
        Copied,
        Damage,
        Diagnosis,
        Exported,
        ExportedFile,
        ExportedParent,
        ExportedRecipe,
        ExportedRecord,
        ExportHead,
        Finding,
        Imported,
        Lock,
        Locked,
        SidecarChange,
        SidecarExport,
        SidecarGap,
        Sync,
        Synced,
        Verification,
    )
    from adapterhub.documents.listings import ArchitectureInfo, LayoutInfo
    from adapterhub.documents.publication import Fidelity, Push, PushedFile, Remote
    from adapterhub.documents.record import (
        Ancestor,
        Duplicates,
        Group,
        Indexing,
        Lineage,
        Member,
        Record,
        RecordFile,
        Replay,
        Similar,
        Similarity,
        Step,
        Told,
        Trouble,
    )
    from adapterhub.documents.trained import Identifier, Identifiers, RareToken, Training, TrainingPlan
    from adapterhub.documents.training import (
        DreamBoothSettings,
        HypernetworkSettings,
        LoraSettings,
        PriorSettings,
        Technique,
        TextualInversionSettings,
        TrainingSettings,
    )

    DOCUMENTS: dict[str, type[Document]]
    """Every public document by the name of its schema."""

__all__ = [
    "DOCUMENTS", "Action", "Ancestor", "Approximation", "ArchitectureInfo", "Audit", "BlockDifference", "Cleaning",
    "Command", "Compatibility", "ComponentDifference", "Container", "Conversion", "Copied", "Damage", "Descent",
    "Diagnosis", "Difference", "Document", "DreamBoothSettings", "Duplicates", "EnergyShare", "Exactness",
    "ExportHead", "Exported", "ExportedFile", "ExportedParent", "ExportedRecipe", "ExportedRecord", "ExtraDifference", "Failure",
    "Fault", "Fidelity", "FieldChange", "FileStamp", "Finding", "Forecast", "Group", "Hashes", "HeaderMetadata",
    "HeatMap", "HubModel", "HubSearch", "HypernetworkSettings", "HypernetworkStructure", "Identifier", "Identifiers", "Imported", "Indexing",
    "Ingredient", "Inspection", "LayoutInfo", "LedgerEntry", "Lineage", "ListedTensor", "Lock", "Locked",
    "LoraSettings", "Member", "Misfit", "ModelFit", "ModuleDifference", "ModuleSpectrum", "NearToken", "NearVector",
    "Nearest", "Part", "PathText", "PriorSettings", "Problem", "Pulled", "PulledFile", "Push", "PushedFile",
    "RareToken", "Reason", "Recipe", "Record", "RecordFile", "Redaction", "Remote", "Replay", "SidecarChange", "SidecarExport",
    "SidecarGap", "Similar", "Similarity", "Source", "Spectrum", "Step", "Sync", "Synced", "Target", "Technique",
    "TextualInversionSettings", "Thumbnail", "Token", "TokenTable", "Told", "Training", "TrainingPlan", "TrainingSettings",
    "Trouble", "Unmeasured", "Validation", "Verdict", "Verification", "schema",
]  # fmt: skip

_HOMES = {
    name: f"adapterhub.documents.{module}"
    for module, names in (
        ("base", "Action Container Document Exactness Failure Fault PathText Problem"),
        (
            "comparison",
            "BlockDifference ComponentDifference Descent Difference ExtraDifference ModuleDifference NearToken NearVector Nearest Spectrum TokenTable",
        ),
        ("conversion", "Approximation Command Conversion Forecast Ingredient LedgerEntry Recipe Source Target"),
        ("compatibility", "Compatibility Misfit ModelFit Reason Verdict"),
        ("header", "Cleaning FieldChange FileStamp HeaderMetadata Redaction Thumbnail"),
        ("hub", "HubModel HubSearch Pulled PulledFile"),
        ("hypernetwork", "HypernetworkStructure"),
        (
            "inspection",
            "Audit EnergyShare Hashes HeatMap Inspection ListedTensor ModuleSpectrum Part Token Unmeasured Validation",
        ),
        (
            "keeping",
            "Copied Damage Diagnosis ExportHead Exported ExportedFile ExportedParent ExportedRecipe ExportedRecord Finding Imported Lock Locked Sync Synced Verification SidecarChange SidecarExport SidecarGap",
        ),
        ("listings", "ArchitectureInfo LayoutInfo"),
        ("publication", "Fidelity Push PushedFile Remote"),
        (
            "record",
            "Ancestor Duplicates Group Indexing Lineage Member Record RecordFile Replay Similar Similarity Step Told Trouble",
        ),
        ("trained", "Identifier Identifiers RareToken Training TrainingPlan"),
        (
            "training",
            "DreamBoothSettings HypernetworkSettings LoraSettings PriorSettings Technique TextualInversionSettings TrainingSettings",
        ),
    )
    for name in names.split()
}
_PUBLIC = {
    "inspection": "Inspection",
    "validation": "Validation",
    "conversion": "Conversion",
    "hypernetwork": "HypernetworkStructure",
    "metadata": "HeaderMetadata",
    "cleaning": "Cleaning",
    "difference": "Difference",
    "compatibility": "Compatibility",
    "nearest": "Nearest",
    "heatmap": "HeatMap",
    "layout": "LayoutInfo",
    "architecture": "ArchitectureInfo",
    "failure": "Failure",
    "sidecar": "SidecarExport",
    "record": "Record",
    "indexing": "Indexing",
    "duplicates": "Duplicates",
    "similar": "Similar",
    "lineage": "Lineage",
    "replay": "Replay",
    "verification": "Verification",
    "diagnosis": "Diagnosis",
    "copied": "Copied",
    "export-head": "ExportHead",
    "export-record": "ExportedRecord",
    "export-recipe": "ExportedRecipe",
    "exported": "Exported",
    "imported": "Imported",
    "lock": "Lock",
    "sync": "Sync",
    "pulled": "Pulled",
    "hub-search": "HubSearch",
    "push": "Push",
    "train-textual-inversion": "TextualInversionSettings",
    "train-dreambooth": "DreamBoothSettings",
    "train-lora": "LoraSettings",
    "train-hypernetwork": "HypernetworkSettings",
    "training": "Training",
    "training-plan": "TrainingPlan",
    "identifiers": "Identifiers",
}


def __getattr__(name: str) -> object:
    """Each document is imported when it is asked for: a command needs few of them."""
    if name == "DOCUMENTS":
        found: object = {schema: __getattr__(title) for schema, title in _PUBLIC.items()}
    elif name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'adapterhub.documents' has no attribute {name!r}")
    globals()[name] = found
    return found


def schema(name: str) -> str:
    """The JSON Schema of one document, as the text of its file."""
    body = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **cast("type[Document]", __getattr__(_PUBLIC[name])).model_json_schema(),
    }
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
