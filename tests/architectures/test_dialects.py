"""How dialects spell modules and whole checkpoints: bijections, and examples read off real files."""

import tomllib
from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub import architectures
from adapterhub.architectures import Crossing, Dialect, Row, inventory
from adapterhub.architectures.dialect import FOLDER, load
from adapterhub.errors import UnknownName

Table = dict[str, dict[str, object]]
TABLES: dict[str, Table] = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.toml"))}
EVERYWHERE = [
    (name, component, dialect)
    for name in architectures.NAMES
    for component in architectures.get(name).weights
    for dialect in ("diffusers", "ldm")
]
TRANSFORMER = "transformer_blocks.9.attn1.to_out.0"
LDM_NAMES = [
    ("sd1", "unet", "conv_in", "input_blocks.0.0"),
    ("sd1", "unet", "time_embedding.linear_2", "time_embed.2"),
    ("sd1", "unet", "down_blocks.0.attentions.1.proj_in", "input_blocks.2.1.proj_in"),
    ("sd1", "unet", "down_blocks.2.downsamplers.0.conv", "input_blocks.9.0.op"),
    ("sd1", "unet", "down_blocks.3.resnets.1.conv1", "input_blocks.11.0.in_layers.2"),
    ("sd1", "unet", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
    ("sd1", "unet", "up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
    ("sd2", "unet", "up_blocks.3.attentions.2.transformer_blocks.0.norm1",
     "output_blocks.11.1.transformer_blocks.0.norm1"),
    ("sdxl", "unet", "add_embedding.linear_1", "label_emb.0.0"),
    ("sdxl", "unet", f"down_blocks.2.attentions.0.{TRANSFORMER}", f"input_blocks.7.1.{TRANSFORMER}"),
    ("sdxl", "unet", f"mid_block.attentions.0.{TRANSFORMER}", f"middle_block.1.{TRANSFORMER}"),
    ("sdxl", "unet", "mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
    ("sdxl", "unet", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
    ("sdxl", "unet", "up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
    ("sdxl", "unet", "conv_norm_out", "out.0"),
    ("sdxl-refiner", "unet", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
    ("sdxl-refiner", "unet", "up_blocks.2.upsamplers.0.conv", "output_blocks.8.2.conv"),
    ("sd1", "vae", "encoder.down_blocks.1.resnets.0.conv_shortcut", "encoder.down.1.block.0.nin_shortcut"),
    ("sd1", "vae", "decoder.up_blocks.0.resnets.2.norm1", "decoder.up.3.block.2.norm1"),
    ("sd1", "vae", "decoder.up_blocks.2.upsamplers.0.conv", "decoder.up.1.upsample.conv"),
    ("sd1", "vae", "decoder.mid_block.attentions.0.to_out.0", "decoder.mid.attn_1.proj_out"),
    ("sd1", "vae", "encoder.conv_norm_out", "encoder.norm_out"),
    ("sd1", "vae", "quant_conv", "quant_conv"),
    ("sd2", "text_encoder", "text_model.encoder.layers.22.self_attn.q_proj",
     "text_model.encoder.layers.22.self_attn.q_proj"),
    ("sdxl", "text_encoder_2", "text_projection", "text_projection"),
]  # fmt: skip

IN_PROJECTION = "text_encoder_2.text_model.encoder.layers.31.self_attn.{}_proj.weight"
ROWS = [
    ("sd1", Row("model.diffusion_model.input_blocks.1.1.proj_in.weight",
                ("unet.down_blocks.0.attentions.0.proj_in.weight",), "same")),
    ("sd1", Row("cond_stage_model.transformer.text_model.final_layer_norm.bias",
                ("text_encoder.text_model.final_layer_norm.bias",), "same")),
    ("sd1", Row("first_stage_model.encoder.mid.attn_1.q.weight",
                ("vae.encoder.mid_block.attentions.0.to_q.weight",), "reshaped")),
    ("sd1", Row("first_stage_model.encoder.mid.attn_1.q.bias",
                ("vae.encoder.mid_block.attentions.0.to_q.bias",), "same")),
    ("sd2", Row("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias",
                tuple(f"text_encoder.text_model.encoder.layers.0.self_attn.{x}_proj.bias" for x in "qkv"), "stacked")),
    ("sd2", Row("cond_stage_model.model.positional_embedding",
                ("text_encoder.text_model.embeddings.position_embedding.weight",), "same")),
    ("sdxl", Row("conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
                 ("text_encoder.text_model.embeddings.token_embedding.weight",), "same")),
    ("sdxl", Row("conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
                 tuple(IN_PROJECTION.format(x) for x in "qkv"), "stacked")),
    ("sdxl", Row("conditioner.embedders.1.model.text_projection", ("text_encoder_2.text_projection.weight",),
                 "transposed")),
    ("sdxl-refiner", Row("conditioner.embedders.0.model.transformer.resblocks.7.mlp.c_proj.weight",
                         ("text_encoder_2.text_model.encoder.layers.7.mlp.fc2.weight",), "same")),
]  # fmt: skip

# Tensors of a clean checkpoint, less what is no row: position_ids; in OpenCLIP logit_scale; in SD 2 the 12 tensors of the
# last block and the projection.
COUNTS = [
    ("sd1", {"unet": 686, "text_encoder": 197 - 1, "vae": 248}),
    ("sd2", {"unet": 686, "text_encoder": 294 - 14, "vae": 248}),
    ("sdxl", {"unet": 1680, "text_encoder": 197 - 1, "text_encoder_2": 390 - 1, "vae": 248}),
    ("sdxl-refiner", {"unet": 1220, "text_encoder_2": 390 - 1, "vae": 248}),
]


def flat(path: str) -> str:
    return path.replace(".", "_")


@pytest.mark.parametrize(("name", "component", "path", "ldm"), LDM_NAMES)
def test_a_module_has_its_ldm_name(name: str, component: str, path: str, ldm: str) -> None:
    assert architectures.get(name).module_names(component, "ldm")[path] == ldm


@pytest.mark.parametrize(("name", "component", "dialect"), EVERYWHERE)
def test_every_module_has_a_name_of_its_own_in_order(name: str, component: str, dialect: str) -> None:
    model = architectures.get(name)
    names = model.module_names(component, dialect)
    assert list(names) == list(model.weights[component])
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(("name", "component", "dialect"), EVERYWHERE)
def test_names_stay_apart_when_dots_become_underscores(name: str, component: str, dialect: str) -> None:
    names = architectures.get(name).module_names(component, dialect)
    assert len({flat(spelled) for spelled in names.values()}) == len(names)


def test_a_flat_unet_name_means_one_dotted_name_in_every_architecture_and_dialect() -> None:
    dotted: dict[str, set[str]] = {}
    for name in architectures.NAMES:
        for dialect in ("diffusers", "ldm"):
            for spelled in architectures.get(name).module_names("unet", dialect).values():
                dotted.setdefault(flat(spelled), set()).add(spelled)
    assert [names for names in dotted.values() if len(names) > 1] == []


@pytest.mark.parametrize("name", architectures.NAMES)
def test_the_diffusers_dialect_is_the_canonical_one(name: str) -> None:
    model = architectures.get(name)
    for component, modules in model.weights.items():
        assert model.module_names(component) == {path: path for path in modules}


@pytest.mark.parametrize(
    ("component", "dialect", "kind"),
    [("unet", "compvis", "dialect"), ("text_encoder_2", "ldm", "component of sd1"), ("unet", "openclip", "dialect")],
)
def test_an_unknown_dialect_or_component_is_refused(component: str, dialect: str, kind: str) -> None:
    with pytest.raises(UnknownName) as refusal:
        architectures.get("sd1").module_names(component, dialect)
    assert refusal.value.kind == kind


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_tensor_of_a_checkpoint_has_its_row(name: str, row: Row) -> None:
    assert {found.place: found for found in architectures.get(name).single_file()}[row.place] == row


@pytest.mark.parametrize(("name", "counts"), COUNTS)
def test_a_checkpoint_has_as_many_tensors_as_published_ones(name: str, counts: dict[str, int]) -> None:
    rows = architectures.get(name).single_file()
    assert Counter(row.tensors[0].partition(".")[0] for row in rows) == counts


@pytest.mark.parametrize("name", architectures.NAMES)
def test_every_tensor_stands_in_exactly_one_row_and_every_place_once(name: str) -> None:
    model = architectures.get(name)
    rows = model.single_file()
    ours = [
        f"{component}.{path}.{kind}" for component in model.weights for path, kind, _ in model.tensors(component)
    ]  # fmt: skip
    assert len({row.place for row in rows}) == len(rows)
    assert sorted(chain.from_iterable(row.tensors for row in rows)) == sorted(ours)


@pytest.mark.parametrize(
    ("name", "crossings"),
    [
        ("sd1", {"reshaped": 8}),
        ("sd2", {"reshaped": 8, "stacked": 2 * 23}),
        ("sdxl", {"reshaped": 8, "stacked": 2 * 32, "transposed": 1}),
        ("sdxl-refiner", {"reshaped": 8, "stacked": 2 * 32, "transposed": 1}),
    ],
)
def test_few_tensors_are_not_the_same_in_a_checkpoint(name: str, crossings: dict[str, int]) -> None:
    rows = architectures.get(name).single_file()
    assert Counter(row.crossing for row in rows if row.crossing != "same") == crossings


@pytest.mark.parametrize("name", architectures.NAMES)
def test_only_stacked_rows_join_tensors(name: str) -> None:
    assert all((len(row.tensors) > 1) == (row.crossing == "stacked") for row in architectures.get(name).single_file())


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_a_table_has_known_parts_and_crossings(content: Table) -> None:
    assert content.keys() <= {"prefixes", "leaves", "stacked", "crossings", "tensors"}
    assert set(content.get("crossings", {}).values()) <= set(get_args(Crossing)) - {"same", "stacked"}


@pytest.mark.parametrize(("table", "content"), TABLES.items(), ids=TABLES)
def test_every_row_of_a_table_changes_what_some_tensor_is_called(table: str, content: Table) -> None:
    users = [
        (load(*names), architectures.get(name), component)
        for name in architectures.NAMES
        for components in inventory.facts(name)["dialects"].values()
        for component, names in components.items()
        if table in names
    ]

    def idle(part: str, row: str) -> bool:
        for dialect, model, component in users:
            rows = {name: value for name, value in getattr(dialect, part).items() if name != row}
            without = replace(dialect, **{part: rows})
            for path, kind, _ in model.tensors(component):
                if spelled(without, path, kind) != spelled(dialect, path, kind):
                    return False
        return True

    assert [(part, row) for part, rows in content.items() for row in rows if idle(part, row)] == []


def spelled(dialect: Dialect, path: str, kind: str) -> Row:
    return dialect.row(path, kind, inner="", outer="")


PATHS = st.lists(st.sampled_from(["a", "b", "0", "conv"]), min_size=1, max_size=5).map(".".join)


@given(PATHS, st.dictionaries(PATHS, PATHS), st.dictionaries(PATHS, PATHS))
def test_the_longest_prefix_of_whole_names_wins_and_then_the_exact_leaf(
    path: str, prefixes: dict[str, str], leaves: dict[str, str]
) -> None:
    block = max((row for row in prefixes if path.startswith(f"{row}.")), key=len, default=None)
    leaf = path if block is None else path.removeprefix(f"{block}.")
    expected = leaves.get(leaf, leaf) if block is None else f"{prefixes[block]}.{leaves.get(leaf, leaf)}"
    assert Dialect(prefixes, leaves).module(path) == expected


@given(PATHS, st.sampled_from(["weight", "bias"]))
def test_a_dialect_without_rows_changes_nothing(path: str, kind: str) -> None:
    assert Dialect().module(path) == path
    assert Dialect().row(path, kind, inner="vae.", outer="first.") == Row(
        f"first.{path}.{kind}", (f"vae.{path}.{kind}",), "same"
    )
