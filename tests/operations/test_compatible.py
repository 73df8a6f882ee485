"""`compatible`: whether an adapter fits a model, and what readers make of a file by its facts."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import adapterhub
from adapterhub.adapter import Kind
from adapterhub.cli import run
from adapterhub.errors import BrokenAdapter, NotAnAdapter
from adapterhub.operations.fit.facts import facts_of_record
from adapterhub.operations.fit.verdicts import readers
from tests.operations import checkpoint_files, merge_files
from tests.operations.a1111_nets import hypernetwork

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def base(tmp_path):
    return merge_files.base(tmp_path / "base.safetensors")


def told(path: Path, reader: str, **options):
    return next(one for one in adapterhub.compatible(path, **options).readers if one.reader == reader)


def codes(verdict) -> dict[str, int]:
    return {reason.code: reason.modules for reason in verdict.reasons}


# The fit to a model


def test_every_module_of_a_lora_for_the_model_fits(base, tmp_path):
    found = adapterhub.compatible(merge_files.lora(tmp_path / "lora.safetensors"), base, architecture="sd1")
    assert found.fits
    fit = found.model
    assert (fit.architecture, fit.same_architecture, fit.present, fit.modules) == ("sd1", True, 6, 6)
    assert (fit.absent, fit.misfits, fit.lacking) == ([], [], [])


def test_modules_that_the_model_lacks_or_has_in_another_shape_are_listed(base, tmp_path):
    tensors = load_file(base)
    gone = merge_files.place("unet", merge_files.Q)
    other = merge_files.place("unet", merge_files.CONV)
    tensors[other] = torch.zeros(4, 2, 2, 2, dtype=torch.float16)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, base)
    found = adapterhub.compatible(merge_files.lora(tmp_path / "lora.safetensors"), base, architecture="sd1")
    assert not found.fits
    assert found.model.absent == [f"unet.{merge_files.Q}"]
    assert [(one.module, one.reason) for one in found.model.misfits] == [
        (f"unet.{merge_files.CONV}", "does not fit the base, whose weight is [4, 2, 2, 2]")
    ]
    assert (found.model.present, found.model.modules) == (4, 6)


def test_a_model_without_its_text_encoder_lacks_a_component(base, tmp_path):
    save_file({name: tensor for name, tensor in load_file(base).items() if "cond_stage" not in name}, base)
    found = adapterhub.compatible(merge_files.lora(tmp_path / "lora.safetensors"), base, architecture="sd1")
    assert (found.fits, found.model.lacking) == (False, ["text_encoder"])


def test_an_adapter_for_another_architecture_does_not_fit(tmp_path):
    base = merge_files.base(tmp_path / "xl.safetensors", architecture="sdxl")
    found = adapterhub.compatible(FIXTURES / "kohya/sd1-lora.safetensors", base)
    assert (found.fits, found.model.same_architecture) == (False, False)


def test_what_the_model_predicts_and_is_given_is_compared(tmp_path):
    tensors = checkpoint_files.weights("sd1", channels=9) | {"v_pred": np.zeros(0, "f4")}
    base = checkpoint_files.saved(tmp_path / "inpainting.safetensors", tensors)
    lora = merge_files.lora(tmp_path / "lora.safetensors")
    save_file(load_file(lora), lora, {"modelspec.prediction_type": "epsilon"})
    found = adapterhub.compatible(lora, base, architecture="sd1")
    assert found.fits
    assert found.model.variants == ["inpainting", "v-prediction"]
    assert [problem.code for problem in found.model.problems] == ["prediction-differs", "input-differs"]


def test_an_embedding_fits_the_widths_of_the_text_encoders(tmp_path):
    tensors = checkpoint_files.weights("sd1")
    table = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    for width, fits in ((768, True), (640, False)):
        base = checkpoint_files.saved(tmp_path / f"{width}.safetensors", tensors | {table: np.zeros((4, width), "f2")})
        found = adapterhub.compatible(FIXTURES / "embedding/a1111/sd1.pt", base)
        assert found.fits == fits
    assert [one.reason for one in found.model.misfits] == ["is 768 wide, and the tokens are 640"]


def test_a_hypernetwork_fits_the_widths_of_the_contexts(tmp_path):
    hypernetwork(tmp_path / "net.pt", [768, 320], [1, 2, 1])
    tensors = checkpoint_files.weights("sd1")
    wide = next(name for name in tensors if name.endswith("attn2.to_k.weight"))
    base = checkpoint_files.saved(tmp_path / "base.safetensors", tensors | {wide: np.zeros((2, 768), "f2")})
    found = adapterhub.compatible(tmp_path / "net.pt", base)
    assert (found.fits, found.model.present, found.model.absent) == (False, 2, ["unet.320.k", "unet.320.v"])


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_no_adapter_or_no_model_is_refused(base, swapped):
    lora = FIXTURES / "kohya/sd1-lora.safetensors"
    with pytest.raises(NotAnAdapter):
        adapterhub.compatible(*((base, base) if swapped else (lora, lora)))


def test_an_adapter_that_contradicts_itself_is_refused(tmp_path):
    lora = merge_files.lora(tmp_path / "lora.safetensors")
    tensors = load_file(lora)
    head = merge_files.head("unet", merge_files.Q)
    save_file(tensors | {f"{head}.lora_up.weight": torch.zeros(2, 3)}, lora)
    with pytest.raises(BrokenAdapter):
        adapterhub.compatible(lora, architecture="sd1")


def test_keys_that_no_layout_explains_are_told_and_stop_diffusers(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file(
              load_file(FIXTURES / "kohya/sd1-lora.safetensors") | {"lora_unet_nowhere.alpha": torch.tensor(1.0)}, path)  # fmt: skip
    found = adapterhub.compatible(path)
    assert "unknown-key" in [problem.code for problem in found.problems]
    assert {one.reader: one.status for one in found.readers} == {
        "a1111": "partly", "forge": "partly", "comfyui": "partly", "diffusers": "refused", "invokeai": "partly", "peft": "refused",
    }  # fmt: skip


# The mending commands

_SAMPLE = [
    *FIXTURES.glob("kohya/sd1-*.safetensors"), *FIXTURES.glob("diffusers/sdxl-*.safetensors"),
    *FIXTURES.glob("comfyui/sdxl-*.safetensors"), *FIXTURES.glob("omi/sd2-lo*.safetensors"),
    *(path for path in FIXTURES.glob("peft/sd1-*") if path.is_dir()), *FIXTURES.glob("cloneofsimo/sd1*"),
]  # fmt: skip


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", sorted(_SAMPLE), ids=named)
def test_a_command_that_needs_no_base_makes_the_reader_load_all_of_it(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = adapterhub.compatible(path)
    for verdict in found.readers:
        assert verdict.mend or verdict.status == "loads", verdict
        if not verdict.mend or "CKPT" in verdict.mend:
            continue
        first, *more = (shlex.split(part)[1:] for part in verdict.mend.split(" && "))
        assert [run([*part, "--force"]) for part in (first, *more)] == [0] * (1 + len(more)), verdict.mend
        after = told(Path(first[first.index("-o") + 1]), verdict.reader, architecture=found.architecture)
        assert after.status == "loads" or codes(after).keys() == {"bundled-embedding"}, (verdict, after)


@pytest.mark.parametrize("algorithm", ["loha", "lokr"])
def test_what_is_a_lora_exactly_needs_neither_rank_nor_base_for_diffusers(algorithm):
    mend = told(FIXTURES / f"kohya/sd1-{algorithm}.safetensors", "diffusers").mend
    assert mend.endswith(" --as lora --for diffusers")


MADE = {
    "dora": ("a1111", {"lora_down.weight": (1, 2), "lora_up.weight": (2, 1), "dora_scale": (2, 1)}, "--as full"),
    "ia3": ("diffusers", {"weight": (2,), "on_input": ()}, "--as lora --rank 64"),
    "ia3 in ComfyUI": ("comfyui", {"weight": (2,), "on_input": ()}, "--as full"),
    "oft": ("forge", {"oft_blocks": (1, 2, 2)}, "--as full"),
    "a bias": ("invokeai", {"diff_b": (2,)}, "merge"),
}


@pytest.mark.parametrize("case", MADE)
def test_a_command_that_needs_the_base_does_too(case, base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reader, shapes, said = MADE[case]
    lora, head = (
        merge_files.lora(Path("lora.safetensors"), dtype=torch.float32),
        merge_files.head("unet", merge_files.OUT),
    )
    tensors = {name: tensor for name, tensor in load_file(lora).items() if not name.startswith(head)}
    save_file(tensors | {f"{head}.{part}": torch.rand(shape) for part, shape in shapes.items()}, lora)
    mend = next(one.mend for one in adapterhub.compatible(lora, base).readers if one.reader == reader)
    assert said in mend
    words = shlex.split(mend)[1:]
    assert run(words) == 0, capsys.readouterr().err
    if words[0] == "convert":
        assert told(Path(words[words.index("-o") + 1]), reader).status == "loads"


def test_a_hypernetwork_of_ours_is_written_for_a1111(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hypernetwork(Path("net.pt"), [768, 320], [1, 2, 1])
    adapterhub.convert("net.pt", "ours.safetensors", to="safetensors")
    verdict = told(Path("ours.safetensors"), "a1111")
    assert (verdict.status, run(shlex.split(verdict.mend)[1:])) == ("ignored", 0)
    assert told(Path("ours-a1111.pt"), "a1111").status == "loads"


def test_the_commands_name_the_file_the_model_and_quote_both(base, tmp_path):
    path = tmp_path / "it's a; style.safetensors"
    path.write_bytes((FIXTURES / "kohya/sd1-boft.safetensors").read_bytes())
    mend = next(one for one in adapterhub.compatible(path, base).readers if one.reader == "forge").mend
    assert shlex.split(mend) == ["adapterhub", "convert", str(path), "-o", "it's a; style-forge.safetensors", "--as", "full",
                                 "--base", str(base), "--for", "forge"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file", "target"),
    [
        ("-rf.safetensors", "./-rf.safetensors", "./-rf-forge.safetensors"),
        (
            b"caf\xe9.safetensors".decode("utf-8", "surrogateescape"),
            r"caf\udce9.safetensors",
            r"caf\udce9-forge.safetensors",
        ),
        ("{reader}.safetensors", "{reader}.safetensors", "{reader}-forge.safetensors"),
    ],
)
def test_odd_names_are_no_options_and_no_errors(name, file, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes((FIXTURES / "kohya/sd1-boft.safetensors").read_bytes())
    found = adapterhub.compatible(name)
    words = shlex.split(next(one for one in found.readers if one.reader == "forge").mend)
    assert (words[2], words[4]) == (file, target)
    assert found.model_dump_json()


# Records of the registry


def test_a_record_is_asked_without_its_file():
    facts = facts_of_record(Kind.LORA, "kohya", "sdxl", {"lora": 720, "ia3": 4, "lora+dora": 2}, {"unet": 726})
    found = {one.reader: (one.status, one.applied, codes(one)) for one in readers(facts)}
    assert found["comfyui"] == ("partly", 722, {"algorithm": 4})
    assert found["diffusers"] == ("refused", 0, {"algorithm": 4, "magnitude-unread": 2})
    assert found["a1111"] == ("loads", 726, {})


def test_a_record_of_no_known_kind_of_file_is_read_by_nobody():
    facts = facts_of_record(Kind.LORA, None, None, {"lora": 3})
    assert {one.status for one in readers(facts)} == {"ignored", "refused"}
    assert {one.mend for one in readers(facts)} == {None}


@pytest.mark.parametrize(
    ("kind", "layout", "architecture", "statuses"),
    [
        (Kind.EMBEDDING, "a1111", "sd1", "loads loads loads loads loads refused"),
        (Kind.EMBEDDING, "a1111-image", "sd1", "loads loads ignored refused refused refused"),
        (Kind.EMBEDDING, "kohya", "sdxl", "loads loads loads refused loads refused"),
        (Kind.EMBEDDING, "replicate", "sdxl", "ignored ignored ignored refused refused refused"),
        (Kind.HYPERNETWORK, "a1111", "sd1", "loads ignored loads refused refused refused"),
        (Kind.HYPERNETWORK, "safetensors", "sd1", "ignored ignored ignored refused refused refused"),
    ],
)
def test_small_files_by_kind_and_layout(kind, layout, architecture, statuses):
    facts = facts_of_record(kind, layout, architecture)
    assert " ".join(one.status for one in readers(facts)) == statuses
