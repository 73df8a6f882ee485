"""push on the loopback Hub: what lies there afterwards, and what it says."""

import json

import pytest

import adapterhub
from adapterhub.errors import RefusedInput, UsageError
from tests.hub import sources
from tests.hub.loopback import writing
from tests.hub.loopback.store import Blob, front_matter
from tests.operations.a1111_nets import hypernetwork, pairs, saved

FOX = "alice/fox"
LORA = "pytorch_lora_weights.safetensors"


def push(path, repo=FOX, **options):
    return adapterhub.push(path, repo, **options)


def card(hub, repo=FOX, revision="main"):
    return hub.files(repo, revision)["README.md"].decode()


def puts(hub):
    return [one for one in hub.requests if one.method == "PUT"]


def net(folder):
    hypernetwork(folder / "style.pt", [320, 768], [1, 2, 1])
    return folder / "style.pt"


def garble(hub, monkeypatch):
    """A Hub that keeps other bytes than it was sent."""
    real = writing._change

    def changed(hub, key, value):
        action, path, blob = real(hub, key, value)
        return action, path, Blob(blob.data.replace(b"F16", b"I16", 1), blob.mode) if path == LORA else blob

    monkeypatch.setattr(writing, "_change", changed)
    hub.elsewhere = False


KINDS = {
    "lora": (sources.lora, {"pytorch_lora_weights.safetensors"}, "diffusers"),
    "embedding": (lambda folder: sources.EMBEDDING, {"learned_embeds.safetensors"}, "diffusers"),
    "pair": (lambda folder: sources.PAIR, {"learned_embeds.safetensors", "learned_embeds_2.safetensors"}, "diffusers"),
    "peft": (
        lambda folder: sources.PEFT,
        {f"{part}/adapter_{end}" for part in ("unet", "text_encoder") for end in ("config.json", "model.safetensors")},
        "peft",
    ),
    "hypernetwork": (net, {"style.pt", "style.safetensors"}, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_goes_in_the_layout_that_readers_look_for(kind, hub, tmp_path):
    make, names, library = KINDS[kind]
    done = push(make(tmp_path))
    there = hub.files(FOX)
    assert there.keys() == {*names, "README.md"}
    assert {row.name: row.size for row in done.files} == {name: len(data) for name, data in there.items()}
    assert {row.action for row in done.files} == {"add"}
    assert (done.commit, done.verified, done.url) == (
        hub.head(FOX),
        True,
        f"{hub.endpoint}/{FOX}/commit/{hub.head(FOX)}",
    )
    told = front_matter(card(hub))
    assert (told.get("library_name"), told["pipeline_tag"]) == (library, "text-to-image")
    assert card(hub) == done.card
    assert {one.exactness for one in done.fidelity} == {"bit-exact"}


def test_all_of_it_is_one_commit_on_the_one_that_was_looked_at(hub, tmp_path):
    hub.add(FOX, {"notes.txt": b"by hand"})
    before = hub.head(FOX)
    done = push(sources.lora(tmp_path), message="A fox\nwith a tail")
    made = hub.repo(FOX).commits[done.commit]
    assert (made.parent, made.title) == (before, "A fox with a tail")
    assert hub.files(FOX)["notes.txt"] == b"by hand"


def test_the_same_again_sends_and_commits_nothing(hub, tmp_path):
    source = sources.lora(tmp_path)
    first = push(source)
    sent = len(puts(hub))
    again = push(source)
    assert (again.commit, {row.action for row in again.files}, len(puts(hub))) == (first.commit, {"same"}, sent)


def test_another_layout_lies_beside_it(hub, tmp_path):
    done = push(sources.lora(tmp_path), also=["kohya"])
    assert hub.files(FOX).keys() == {"README.md", "fox.safetensors", "pytorch_lora_weights.safetensors"}
    (tmp_path / "back.safetensors").write_bytes(hub.files(FOX)["fox.safetensors"])
    assert adapterhub.diff(tmp_path / "back.safetensors", sources.LORA).equal
    assert [one.layout for one in done.fidelity] == ["diffusers", "kohya"]
    with pytest.raises(UsageError, match="no place beside"):
        push(sources.lora(tmp_path), also=["peft"])


@pytest.mark.parametrize("part", [None, 4096])
def test_large_files_go_in_parts(part, hub, tmp_path):
    hub.part_size = part
    push(sources.lora(tmp_path))
    assert len(puts(hub)) == (1 if part is None else 6)


def test_other_weights_are_replaced_only_if_that_is_said(hub, tmp_path):
    push(sources.lora(tmp_path))
    before, other = hub.files(FOX), sources.lora(tmp_path, scale=2, name="other.safetensors")
    with pytest.raises(UsageError, match="has other files called pytorch_lora_weights"):
        push(other)
    assert hub.files(FOX) == before
    assert {row.name: row.action for row in push(other, dry_run=True).files}[
        "pytorch_lora_weights.safetensors"
    ] == "replace"
    push(other, force=True)
    assert hub.files(FOX)["pytorch_lora_weights.safetensors"] != before["pytorch_lora_weights.safetensors"]


def test_a_branch_is_made_and_main_stays(hub, tmp_path):
    hub.add(FOX, {})
    head = hub.head(FOX)
    done = push(sources.lora(tmp_path), revision="dev/x")
    assert (hub.head(FOX), hub.head(FOX, "dev/x"), done.verified) == (head, done.commit, True)


def test_a_pull_request_changes_nothing_else(hub, tmp_path, monkeypatch):
    hub.add("bob/fox", {"README.md": b"# bob's\n"})
    head = hub.head("bob/fox")
    done = push(sources.lora(tmp_path), "bob/fox", create_pr=True)
    assert (hub.head("bob/fox"), done.url) == (head, f"{hub.endpoint}/bob/fox/discussions/1")
    assert (hub.head("bob/fox", "refs/pr/1"), done.verified) == (done.commit, True)
    assert card(hub, "bob/fox", "refs/pr/1").count("# bob's\n") == 1


def test_a_repository_is_made_private_and_a_public_one_is_not_taken_for_it(hub, tmp_path):
    push(sources.lora(tmp_path), private=True)
    assert hub.repo(FOX).private
    hub.add("alice/open", {})
    with pytest.raises(UsageError, match="is there and public"):
        push(sources.lora(tmp_path), "alice/open", private=True)


def test_what_a_person_wrote_in_the_card_stays(hub, tmp_path):
    push(sources.lora(tmp_path), license="mit", base_model="alice/base")
    mine = (
        card(hub)
        .replace("license: mit", "license: cc0-1.0 # mine\nthumbnail: x.png")
        .replace("- lora", "- lora\n- foxes")
    )
    hub.add(FOX, {"README.md": f"{mine}\n## Mine\r\n\nabove *all*\n".encode()})
    push(sources.lora(tmp_path), instance_prompt="a fox")
    told, text = front_matter(card(hub)), card(hub)
    assert (told["license"], told["thumbnail"], told["base_model"]) == ("cc0-1.0", "x.png", "alice/base")
    assert {"foxes", "lora"} <= {*told["tags"]}
    assert told["instance_prompt"] == "a fox"
    assert text.endswith("\n## Mine\r\n\nabove *all*\n")
    assert "license: cc0-1.0 # mine\n" in text
    assert text.count("adapterhub:begin") == text.count("# fox\n") == 1


@pytest.mark.parametrize(
    "text", ["---\na: [\n---\n", "---\nlicense: mit\n", "---\n- a\n---\n", "---\na: &a [1]\nb: *a\n---\n"]
)
def test_a_card_that_cannot_be_kept_is_not_replaced(text, hub, tmp_path):
    hub.add(FOX, {"README.md": text.encode()})
    with pytest.raises(UsageError, match=r"README\.md in the repository cannot be kept"):
        push(sources.lora(tmp_path))
    assert hub.files(FOX) == {"README.md": text.encode()}


def test_the_licence_of_the_base_is_passed_on(hub, tmp_path):
    hub.add("alice/base", {"README.md": b"---\nlicense: other\nlicense_name: foxes\nlicense_link: LICENSE.md\n---\n"})
    push(sources.lora(tmp_path), base_model="alice/base")
    told = front_matter(card(hub))
    assert (told["license"], told["license_name"], told["license_link"]) == ("other", "foxes", "LICENSE.md")
    assert (told["base_model"], told["base_model_relation"]) == ("alice/base", "adapter")


SECRET = "hf_" + "s" * 34
PRIVATE = {
    "ss_sd_model_name": "/home/carol/models/sd15.safetensors", "wandb_api_key": "k" * 40,
    "ss_training_comment": f"see C:\\Users\\carol\\notes.txt {SECRET}", "modelspec.description": "mail carol@example.org",
    "modelspec.trigger_phrase": f"fox, {SECRET}",
}  # fmt: skip


def test_nothing_private_is_sent(hub, tmp_path):
    source = sources.lora(tmp_path, PRIVATE)
    before = source.read_bytes()
    done = push(source, also=["kohya"])
    everything = b"".join(hub.files(FOX).values()) + done.model_dump_json().encode()
    assert [
        word for word in (b"carol", SECRET.encode(), b"k" * 40, b"/home", hub.token.encode()) if word in everything
    ] == []
    assert {one.what for one in done.cleaned} == {"local-path", "secret", "e-mail"}
    assert source.read_bytes() == before
    assert "base_model" not in front_matter(card(hub))


def test_a_pickle_is_made_of_what_was_cleaned(hub, tmp_path):
    made = pairs([320], [1, 2, 1])
    saved(tmp_path / "style.pt", made, [1, 2, 1], sd_checkpoint_name="/home/carol/sd15.ckpt", optional_info=SECRET)
    done = push(tmp_path / "style.pt")
    everything = b"".join(hub.files(FOX).values())
    assert hub.files(FOX).keys() == {"style.pt", "style.safetensors", "README.md"}
    assert [word for word in (b"carol", SECRET.encode()) if word in everything] == []
    assert {one.exactness for one in done.fidelity} == {"bit-exact"}
    push(sources.PAIR, "alice/pair", also=["kohya"])
    push(sources.EMBEDDING, "alice/one", also=["a1111"])
    assert hub.files("alice/one").keys() == {"README.md", "learned_embeds.safetensors", "sd1.pt"}


def test_an_option_with_a_path_or_token_in_it_is_refused(hub, tmp_path):
    for text in (f"fox {SECRET}", "fox /home/carol/x.png"):
        with pytest.raises(RefusedInput, match="the card would tell what is private"):
            push(sources.lora(tmp_path), instance_prompt=text)
    assert hub.repos == {}


def test_a_local_base_in_pefts_configuration_becomes_an_id_or_nothing(hub, tmp_path):
    folder = sources.copied(sources.PEFT, tmp_path)
    for path in folder.rglob("adapter_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "/home/carol/sd15"}))
    push(folder)
    push(folder, "alice/second", base_model="alice/base")
    for repo, base in ((FOX, None), ("alice/second", "alice/base")):
        configs = [json.loads(data) for name, data in hub.files(repo).items() if name.endswith("config.json")]
        assert [config["base_model_name_or_path"] for config in configs] == [base, base]


def test_the_token_goes_to_its_endpoint_and_nowhere_else(hub, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("HF_TOKEN")
    done = push(sources.lora(tmp_path), token=hub.token)
    away = [one for one in hub.requests if one.path.startswith(("/cdn/", "/lfs/"))]
    assert [one for one in away if one.authorization] == []
    assert len(away) >= 2
    kept = [path.read_bytes() for path in hub.home.rglob("*") if path.is_file()] + [*hub.files(FOX).values()]
    assert hub.token not in done.model_dump_json() + caplog.text
    assert [data for data in kept if hub.token.encode() in data] == []


def test_pictures_lose_what_they_say_but_their_prompt(hub, tmp_path):
    from PIL import Image, PngImagePlugin

    told = PngImagePlugin.PngInfo()
    told.add_text("parameters", f"a fox, {SECRET}\nNegative prompt: cats\nSteps: 20")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png", pnginfo=told)
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.jpg", comment=b"carol", exif=b"Exif\0\0carol")
    push(sources.lora(tmp_path), images=[tmp_path / "a.png", tmp_path / "b.jpg"])
    there, told = hub.files(FOX), front_matter(card(hub))
    assert [one["output"]["url"] for one in told["widget"]] == ["image_0.png", "image_1.jpg"]
    assert told["widget"][0]["text"] == "a fox, [removed]"
    assert "template:sd-lora" in told["tags"]
    assert "<Gallery />" in card(hub)
    assert [name for name in ("image_0.png", "image_1.jpg") if b"carol" in there[name] or b"Steps" in there[name]] == []
    with pytest.raises(RefusedInput, match="is no PNG"):
        push(sources.lora(tmp_path), images=[sources.LORA])
