"""Each application, made as it lays out its files, and what its settings add."""

import os

import pytest

from adapterhub.adapter import Kind
from adapterhub.registry.places import Place, recognised
from tests.registry.trees import found, link, names, plant, troubles, write

LORA, EMBEDDING, HYPERNETWORK, CHECKPOINT = Kind.LORA, Kind.EMBEDDING, Kind.HYPERNETWORK, Kind.CHECKPOINT
WEBUI = {
    "models/Lora/a.safetensors": LORA,
    "models/LyCORIS/a.safetensors": LORA,
    "embeddings/a.png": EMBEDDING,
    "models/hypernetworks/a.pt": HYPERNETWORK,
    "models/Stable-diffusion/a.ckpt": CHECKPOINT,
}
# Application → names that tell it, and files with the kind that is kept where they lie.
LAYOUTS = {
    "comfyui": (["folder_paths.py", "comfy/"], {
        "models/loras/sub/a.safetensors": LORA, "models/embeddings/a.webp": EMBEDDING, "models/hypernetworks/a.pt": HYPERNETWORK,
        "models/checkpoints/a.safetensors": CHECKPOINT, "models/unet/a.sft": CHECKPOINT, "output/loras/a.safetensors": LORA,
    }),
    "a1111": (["webui.py", "launch.py", "modules/"], WEBUI),
    "forge": (["webui.py", "launch.py", "modules/", "modules_forge/", "backend/"], WEBUI),
    "reforge": (["webui.py", "launch.py", "modules/", "modules_forge/", "ldm_patched/"], WEBUI),
    "sdnext": (["webui.py", "launch.py", "installer.py", "modules/"], WEBUI | {"models/embeddings/a.pt": EMBEDDING}),
    "stability-matrix": (["Data/Packages/"], {
        "Data/Models/Lora/a.safetensors": LORA, "Data/Models/Embeddings/a.pt": EMBEDDING,
        "Data/Models/Hypernetwork/a.pt": HYPERNETWORK, "Data/Models/StableDiffusion/a.ckpt": CHECKPOINT,
    }),
    "swarmui": (["src/SwarmUI.csproj"], {
        "Models/Lora/a.safetensors": LORA, "Models/Embeddings/a.pt": EMBEDDING, "Models/Stable-Diffusion/a.ckpt": CHECKPOINT,
    }),
    "invokeai": (["invokeai.yaml"], {"models/123/a.safetensors": None}),
    "huggingface": (["CACHEDIR.TAG"], {"models--a--b/snapshots/1/a.safetensors": None}),
}  # fmt: skip
ELSEWHERE = [
    "custom_nodes/x/a.pt",
    "output/a.png",
    "models/VAE/a.pt",
    "models/vae/a.pt",
    "repositories/a.pt",
    "venv/a.pt",
]


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_application_is_recognised_and_only_its_places_are_walked(tmp_path, name):
    witnesses, kept = LAYOUTS[name]
    plant(tmp_path, *witnesses, *kept)
    plant(tmp_path, *(["README.md"] if name in ("invokeai", "huggingface") else ELSEWHERE))
    application = recognised(tmp_path)
    assert (application.name, application.root, application.troubles) == (name, tmp_path, ())
    things = found(tmp_path)
    assert {str(thing.path.relative_to(tmp_path)): thing.hint for thing in things} == kept
    assert {thing.application for thing in things} == {name}


def test_a_folder_of_models_is_no_application_and_is_walked_whole(tmp_path):
    plant(tmp_path, "a.pt", "deep/ComfyUI/folder_paths.py", "deep/ComfyUI/comfy/", "deep/ComfyUI/custom_nodes/a.pt")
    assert recognised(tmp_path) is None
    assert names(found(tmp_path), tmp_path) == ["a.pt", "deep/ComfyUI/custom_nodes/a.pt"]


def test_a_folder_that_another_lies_in_keeps_its_own_kind(tmp_path):
    plant(tmp_path, "folder_paths.py", "comfy/", "all/loras/a.pt", "all/b.pt")
    write(tmp_path / "extra_model_paths.yaml", "x:\n  base_path: all\n  checkpoints: .\n  loras: loras\n")
    assert {thing.path.name: thing.hint for thing in found(tmp_path)} == {"a.pt": LORA, "b.pt": CHECKPOINT}


class TestComfyUI:
    def comfyui(self, root, yaml):
        plant(root / "ui", "folder_paths.py", "comfy/")
        write(root / "ui/extra_model_paths.yaml", yaml)
        return root / "ui"

    def test_its_yaml_adds_folders(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("DISK", str(tmp_path / "disk"))
        plant(
            tmp_path,
            "ui/rel/l/",
            "home/e/",
            "disk/h/",
            "disk/h2/",
            "a1111/models/Lora/",
            "a1111/models/LyCORIS/",
            "abs/c/",
        )
        root = self.comfyui(tmp_path, f"""
            # a comment
            relative: {{base_path: rel, loras: l, vae: ../vae, configs: 5}}
            home:
                base_path: "~"
                embeddings: e/
            variable:
                base_path: $DISK
                is_default: true
                hypernetworks: |
                    h
                    h2
                    missing
            a1111:
                base_path: {tmp_path}/a1111/
                loras: |
                     models/Lora
                     models/LyCORIS
            based_on_nothing:
                checkpoints: {tmp_path}/abs/c
            empty:
            """.replace("\n            ", "\n"))  # fmt: skip
        application = recognised(root)
        assert application.troubles == ()
        assert application.places == (
            Place(tmp_path / "disk/h", HYPERNETWORK), Place(tmp_path / "disk/h2", HYPERNETWORK),
            Place(root / "rel/l", LORA), Place(tmp_path / "home/e", EMBEDDING), Place(tmp_path / "a1111/models/Lora", LORA),
            Place(tmp_path / "a1111/models/LyCORIS", LORA), Place(tmp_path / "abs/c", CHECKPOINT),
        )  # fmt: skip

    def test_a_link_among_its_models_is_followed(self, tmp_path):
        plant(tmp_path, "far/a.pt", "ui/folder_paths.py", "ui/comfy/", "ui/models/")
        link(tmp_path / "ui/models/loras", tmp_path / "far")
        assert [(thing.path.name, thing.hint) for thing in found(tmp_path / "ui")] == [("a.pt", LORA)]

    @pytest.mark.parametrize(("yaml", "reason"), [
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "an alias"),
        ("a: &a {x: y}\nb:\n  <<: *a\n", "an alias"),
        ("x: [" * 5_000, "nested too deep"),
        ("a: {b", "this is no YAML"),
        ("a: \x07", "this is no YAML"),
        ("? [a]\n: b\n", "this is no YAML"),
        ("x: " + "y" * 70_000, "above the limit"),
    ])  # fmt: skip
    def test_hostile_yaml_is_told_and_the_rest_is_found(self, tmp_path, yaml, reason):
        root = self.comfyui(tmp_path, yaml)
        plant(root, "models/loras/a.pt")
        [told] = recognised(root).troubles
        assert told.path == root / "extra_model_paths.yaml"
        assert reason in told.reason
        assert str(root) not in told.reason
        assert troubles(root) == [told]

    @pytest.mark.parametrize("yaml", [
        "a: !!python/object/apply:os.mkdir [OWNED]\n", "a: {loras: !!python/object/new:os.mkdir [OWNED]}\n",
        "- a\n", "5", "", "a: 5\nb: [1]\nc: {loras: [[x], {y: z}], base_path: [q]}\n", "a: {loras: !!int '', is_default: !!bool x}\n",
        "a: {loras: 2026-99-99}", "a: {loras: \"x\\0y\"}",
    ])  # fmt: skip
    def test_yaml_means_nothing_but_text(self, tmp_path, monkeypatch, yaml):
        monkeypatch.chdir(tmp_path)
        application = recognised(self.comfyui(tmp_path, yaml.replace("OWNED", str(tmp_path / "owned"))))
        assert (application.places, application.troubles) == ((), ())
        assert not (tmp_path / "owned").exists()

    def test_a_yaml_that_is_no_file_is_not_opened(self, tmp_path):
        plant(tmp_path, "folder_paths.py", "comfy/")
        os.mkfifo(tmp_path / "extra_model_paths.yaml")
        [told] = recognised(tmp_path).troubles
        assert "no regular file" in told.reason


class TestWebUI:
    @pytest.mark.parametrize(("file", "text"), [
        ("webui-user.sh", 'export COMMANDLINE_ARGS="--medvram --lora-dir {there} --xformers"'),
        ("webui-user.sh", "COMMANDLINE_ARGS='--lora-dir \"{there}\"' # mine"),
        ("webui-user.sh", '  export COMMANDLINE_ARGS="--lora-dir={there}"'),
        ("webui-user.sh", 'export COMMANDLINE_ARGS="--lora-dir $HERE/my_loras"'),
        ("webui-user.sh", 'export COMMANDLINE_ARGS="--lora-dir ../my_loras --ckpt-dir"'),
        ("webui-user.bat", "@echo off\r\nset COMMANDLINE_ARGS=--api --lora-dir \"{there}\" --xformers\r\ncall webui.bat"),
        ("webui-user.bat", 'set "COMMANDLINE_ARGS=--lora-dir {there}"\r\n'),
        ("webui-user.bat", "set COMMANDLINE_ARGS=--lora-dir ..\\my_loras\r\n"),
    ])  # fmt: skip
    def test_an_argument_names_a_folder(self, tmp_path, monkeypatch, file, text):
        monkeypatch.setenv("HERE", str(tmp_path))
        plant(tmp_path, "my_loras/", "ui/webui.py", "ui/launch.py", "ui/modules/")
        (tmp_path / "ui" / file).write_bytes(text.replace("{there}", str(tmp_path / "my_loras")).encode())
        [(path, kind)] = recognised(tmp_path / "ui").places
        assert (path.resolve(), kind) == (tmp_path / "my_loras", LORA)

    def test_every_argument_has_its_kind_and_a_root_has_all(self, tmp_path):
        folders = {"--ckpt-dir": "c", "--embeddings-dir": "e", "--hypernetwork-dir": "h", "--lyco-dir-backcompat": "l"}
        plant(tmp_path, "webui.py", "modules_forge/", "c/", "e/", "h/", "l/")
        plant(
            tmp_path,
            "data/embeddings/",
            "data/models/Lora/",
            "mine/Lora/",
            "mine/embeddings/",
            "old/models/hypernetworks/",
        )
        roots = {"--data-dir": "data", "--models-dir": "mine", "--forge-ref-a1111-home": "old"}
        line = " ".join(f"{flag} {value}" for flag, value in (folders | roots).items())
        write(
            tmp_path / "webui-user.sh", f'#export COMMANDLINE_ARGS="--lora-dir no"\nexport COMMANDLINE_ARGS="{line}"\n'
        )
        assert {str(path.relative_to(tmp_path)): kind for path, kind in recognised(tmp_path).places} == {
            "c": CHECKPOINT, "e": EMBEDDING, "h": HYPERNETWORK, "l": LORA, "data/embeddings": EMBEDDING,
            "data/models/Lora": LORA, "mine/Lora": LORA, "mine/embeddings": EMBEDDING, "old/models/hypernetworks": HYPERNETWORK,
        }  # fmt: skip

    @pytest.mark.parametrize("text", [
        "COMMANDLINE_ARGS=$(touch owned)", "COMMANDLINE_ARGS=\"`touch owned` --lora-dir", "COMMANDLINE_ARGS='\"",
        "COMMANDLINE_ARGS=--lora-dir \0", "COMMANDLINE_ARGS=" + "--lora-dir x " * 4_000, "\n" * 60_000, " " * 60_000,
        "set" + " " * 60_000, "COMMANDLINE_ARGS=" + "x" * 60_000, "COMMANDLINE_ARGS=" + "\"" * 60_000,
    ])  # fmt: skip
    def test_nothing_is_run(self, tmp_path, monkeypatch, text):
        monkeypatch.chdir(plant(tmp_path, "webui.py", "launch.py", "modules/"))
        write(tmp_path / "webui-user.sh", text)
        assert recognised(tmp_path).places == ()
        assert not (tmp_path / "owned").exists()

    def test_sdnext_names_its_folders_in_its_configuration(self, tmp_path):
        plant(tmp_path, "ui/webui.py", "ui/installer.py", "ui/modules/", "far/l/", "ui/e/", "far/m/Stable-diffusion/")
        config = f'{{"lora_dir": "{tmp_path}/far/l", "embeddings_dir": "e", "models_dir": "../far/m", "ckpt_dir": 5, "x": [{{}}]}}'
        write(tmp_path / "ui/config.json", config)
        assert {(path.resolve(), kind) for path, kind in recognised(tmp_path / "ui").places} == {
            (tmp_path / "far/l", LORA), (tmp_path / "ui/e", EMBEDDING), (tmp_path / "far/m/Stable-diffusion", CHECKPOINT),
        }  # fmt: skip

    @pytest.mark.parametrize("text", ["{", "[1]", '{"lora_dir": "a\\u0000"}', '{"lora_dir": {}}'])
    def test_a_configuration_that_is_none_is_not_believed(self, tmp_path, text):
        plant(tmp_path, "webui.py", "installer.py", "modules/")
        write(tmp_path / "config.json", text)
        application = recognised(tmp_path)
        assert application.places == ()
        assert len(application.troubles) == (text == "{")


def test_the_library_of_stability_matrix_may_put_its_models_elsewhere(tmp_path):
    plant(tmp_path, "lib/Packages/", "lib/Models/Lora/", "far/LyCORIS/")
    write(tmp_path / "lib/settings.json", f'{{"ModelDirectoryOverride": "{tmp_path}/far", "Theme": "Dark"}}')
    assert recognised(tmp_path / "lib").places == (
        Place(tmp_path / "far/LyCORIS", LORA), Place(tmp_path / "lib/Models/Lora", LORA),
    )  # fmt: skip


def test_swarmui_names_roots_and_folders_in_its_settings(tmp_path):
    plant(tmp_path, "ui/Models/loras/", "far/loras/", "far/checkpoints/", "ui/Models/Embeddings/", "lora2/")
    write(
        tmp_path / "ui/Data/Settings.fds",
        f"""#Settings
IsInstalled: true
Paths:
\t#Root path.
\tModelRoot: Models;{tmp_path}/far
\tSDModelFolder: Stable-Diffusion;checkpoints
\tSDLoraFolder: loras;{tmp_path}/lora2
Network:
\tSDLoraFolder: no
""",
    )
    assert set(recognised(tmp_path / "ui").places) == {
        Place(tmp_path / "ui/Models/loras", LORA), Place(tmp_path / "far/loras", LORA), Place(tmp_path / "lora2", LORA),
        Place(tmp_path / "ui/Models/Embeddings", EMBEDDING), Place(tmp_path / "far/checkpoints", CHECKPOINT),
    }  # fmt: skip


@pytest.mark.parametrize("text", [
    "", "Paths:", "Paths:\n\tModelRoot", "Paths:\n\tModelRoot: ;;\0", "Paths:\n" + "\t\n" * 20_000,
    f"Paths:\n\tModelRoot: {'x;' * 15_000}\n\tSDLoraFolder: {'y;' * 15_000}\n",
])  # fmt: skip
def test_hostile_settings_of_swarmui_name_nothing(tmp_path, text):
    write(tmp_path / "Data/Settings.fds", text)
    assert recognised(tmp_path).places == ()
