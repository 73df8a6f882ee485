"""What `make demo` runs."""


def test_the_demo_converts_every_file_and_proves_it(cli, style, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_REAL_FILES", str(style.parent))
    status, out, err = cli("demo")
    assert (status, err) == (0, "")
    shown = out.split("style.safetensors\n", 1)[1].splitlines()
    assert "layout        kohya" in shown
    assert "ledger  rename 2, metadata 1" in shown
    assert "proof   bit-exact, max error 0 over 1 modules" in shown
    assert "the same: 1 modules compared, max error 0" in shown
