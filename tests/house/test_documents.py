"""Documents, their schemas, and how they are shown to programs."""

import json
import math

import jsonschema
import pytest
from pydantic import ValidationError

from adapterhub import documents

INSPECTION = {"path": "a", "size": 1, "kind": "lora", "container": "safetensors", "tensors": 0, "parameters": 0}
# contract.md, `inspect --json`: other programs rely on these, in this order.
INSPECTION_FIELDS = (
    "path size kind container layout architecture variant evidence algorithms components ranks alphas dtypes tensors "
    "parameters tokens vectors structure fingerprint hashes metadata problems also parts extras extra_bytes file_hashes spectrum listing"
).split()
CONVERSION_FIELDS = "command source inputs target exactness max_error relative_error approximations modules entries summary problems size forecast undo recipe dry_run seconds".split()


def conversion(**changes):
    return documents.Conversion(**{
        "source": {"path": "a", "sha256": None}, "target": {"path": "b", "layout": "kohya"}, "exactness": "exact",
        "modules": 1, "entries": [], "summary": {}, "seconds": 0.5, **changes,
    })  # fmt: skip


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_every_document_has_a_valid_schema_that_is_current(name, request):
    path = request.config.rootpath / "schemas" / f"{name}.schema.json"
    text = path.read_text("utf-8")
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    assert text == documents.schema(name)


def test_no_schema_is_left_of_a_document_that_is_gone(request):
    stems = {path.name.removesuffix(".schema.json") for path in (request.config.rootpath / "schemas").glob("*.json")}
    assert stems == documents.DOCUMENTS.keys()


@pytest.mark.parametrize("document", documents.Document.__subclasses__(), ids=lambda document: document.__name__)
def test_every_field_is_described(document):
    assert [name for name, field in document.model_fields.items() if not field.description] == []


def test_an_inspection_has_the_fields_of_the_contract_in_its_order():
    assert list(json.loads(documents.Inspection(**INSPECTION).model_dump_json())) == INSPECTION_FIELDS


def test_a_conversion_has_the_fields_of_the_contract_in_its_order():
    assert list(json.loads(conversion().model_dump_json())) == CONVERSION_FIELDS


def test_a_document_holds_what_its_schema_allows():
    body = json.loads(documents.Inspection(**INSPECTION).model_dump_json())
    jsonschema.validate(body, json.loads(documents.schema("inspection")))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body | {"kind": "poster"}, json.loads(documents.schema("inspection")))


@pytest.mark.parametrize("changes", [{"kind": "poster"}, {"container": "tar"}, {"colour": "red"}, {"size": "much"}])
def test_a_document_takes_nothing_that_its_schema_does_not_know(changes):
    with pytest.raises(ValidationError):
        documents.Inspection(**INSPECTION | changes)


def test_a_summary_counts_known_actions_only():
    with pytest.raises(ValidationError):
        conversion(summary={"guess": 1})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null_in_json(value):
    assert json.loads(conversion(max_error=value).model_dump_json())["max_error"] is None


def test_a_file_name_that_is_no_utf8_is_shown_with_escapes():
    path = b"caf\xe9.safetensors".decode("utf-8", "surrogateescape")
    assert documents.Inspection(**INSPECTION | {"path": path}).path == "caf\\udce9.safetensors"
