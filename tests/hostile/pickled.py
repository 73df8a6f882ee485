"""Pickles and archives of torch, written by hand."""

import io
import struct
import zipfile

END = b"."
ORDERED = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def storage(
    key: str = "0", count: int = 4, kind: str = "FloatStorage", place: str = "cpu", *, more: bytes = b""
) -> bytes:
    return (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(place) + number(count) + more + b"tQ"
    )


def tensor(
    shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, hooks: bytes = ORDERED,
    over: bytes | None = None, more: bytes = b"",
) -> bytes:  # fmt: skip
    axes = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, stride)]
    return REBUILD + b"(" + (storage() if over is None else over) + number(offset) + b"".join(axes) + b"\x89" + hooks + more + b"tR"  # fmt: skip


def whole(body: bytes, protocol: int = 2) -> bytes:
    """A pickle of `{"x": body}`."""
    return b"\x80" + bytes([protocol]) + b"}" + text("x") + body + b"s."


def zipped(pickled: bytes, storages: dict[str, bytes] | None = None, **records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for key, content in ({"0": bytes(16)} if storages is None else storages).items():
            archive.writestr(f"x/data/{key}", content)
        for name, content in {"version": b"3\n", **records}.items():
            archive.writestr(f"x/{name}", content)
    return buffer.getvalue()


MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = {"protocol_version": b"M\xe9\x03", "little_endian": b"\x88", "type_sizes": b"}"}


def system(**change: bytes) -> bytes:
    """The note of the machine that wrote a legacy file, as a pickle."""
    return b"\x80\x02}" + b"".join(text(name) + told + b"s" for name, told in {**SYSTEM, **change}.items()) + b"."


def legacy(
    pickled: bytes | None = None, keys: bytes = b"]" + text("0") + b"a",
    storages: bytes = struct.pack("<q4f", 4, 1, 2, 3, 4), *, head: bytes = MAGIC + PROTOCOL + system(),
) -> bytes:  # fmt: skip
    """A file of torch before 1.6."""
    body = whole(tensor(over=storage(more=b"N"))) if pickled is None else pickled
    return head + body + b"\x80\x02" + keys + b"." + storages
