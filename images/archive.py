#!/usr/bin/env python3
"""Write an image archive without a container engine: one static binary on nothing, for a numeric non-root user.

The archive is an OCI image layout (image-spec 1.1, image-layout.md) that also carries the manifest.json of `docker save`,
so that `ctr images import`, `podman load`, `docker load`, `skopeo copy oci-archive:` and `crane push` all take it. The same
inputs give the same bytes: names are sorted, times are SOURCE_DATE_EPOCH, owners are 0, and gzip writes no time.
Only Python's standard library is needed.
"""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import os
import struct
import sys
import tarfile

# 65532 is the "nonroot" of the distroless images; policies that want a numeric user outside the host's range know it.
USER = 65532
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
ARCHITECTURES = {62: "amd64", 183: "arm64"}  # e_machine of ELF headers
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def architecture(binary: bytes) -> str:
    """The platform of a static ELF executable; anything else would not start on an empty root."""
    if binary[:6] != b"\x7fELF\x02\x01":
        sys.exit("archive: the binary is no 64-bit little-endian ELF file")
    (machine,) = struct.unpack_from("<H", binary, 18)
    (headers_at,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    kinds = [struct.unpack_from("<I", binary, headers_at + size * i)[0] for i in range(count)]
    if 3 in kinds:  # PT_INTERP
        sys.exit("archive: the binary asks for a dynamic loader; build it for a musl target")
    if machine not in ARCHITECTURES:
        sys.exit(f"archive: no image platform is known for ELF machine {machine}")
    return ARCHITECTURES[machine]


def tar(entries: list[tuple[str, bytes | None, int]], time: int) -> bytes:
    """A tar of (name, content or None for a folder, mode)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content, mode in entries:
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = time, mode
            if content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def layer(name: str, binary: bytes, certificates: bytes, time: int) -> bytes:
    """The root file system. A folder comes before what is in it."""
    folders = CA_BUNDLE.split("/")[:-1]
    entries = [("/".join(folders[: i + 1]), None, 0o755) for i in range(len(folders))]
    return tar([*entries, (CA_BUNDLE, certificates, 0o444), (name, binary, 0o555)], time)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob(media_type: str, data: bytes, **more) -> dict:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def as_json(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def image(reference: str, binary: bytes, certificates: bytes, labels: dict[str, str], time: int) -> tuple[bytes, str]:
    """The archive and the digest of its manifest, by which a registry and a Pod name the image."""
    name = reference.rsplit("/", 1)[-1].rsplit(":", 1)[0]
    created = datetime.datetime.fromtimestamp(time, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    root = layer(name, binary, certificates, time)
    packed = gzip.compress(root, compresslevel=9, mtime=0)
    config = as_json({
        "created": created,
        "architecture": architecture(binary),
        "os": "linux",
        "config": {"User": f"{USER}:{USER}", "Entrypoint": [f"/{name}"], "WorkingDir": "/", "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest(root)]},
        "history": [{"created": created, "created_by": "images/archive.py"}],
    })
    manifest = as_json({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(CONFIG, config),
        "layers": [blob(LAYER, packed)],
        "annotations": labels,
    })
    names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference.rsplit(":", 1)[-1]}
    index = as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [blob(MANIFEST, manifest, annotations=names)]})
    path = {data: "blobs/sha256/" + hashlib.sha256(data).hexdigest() for data in (config, packed, manifest)}
    saved = [{"Config": path[config], "RepoTags": [reference], "Layers": [path[packed]]}]
    files = [(path[data], data, 0o644) for data in (config, packed, manifest)]
    files += [
        ("index.json", index, 0o644),
        ("manifest.json", as_json(saved), 0o644),
        ("oci-layout", as_json({"imageLayoutVersion": "1.0.0"}), 0o644),
    ]
    entries = [("blobs", None, 0o755), ("blobs/sha256", None, 0o755), *sorted(files)]
    return tar(entries, time), digest(manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", help="name of the image with its tag, such as ghcr.io/officekms/kms-host:0.1.0")
    parser.add_argument("binary", help="static executable; the image's entry point")
    parser.add_argument("archive", help="file to write")
    parser.add_argument("--certificates", default="/" + CA_BUNDLE, help="PEM bundle of public authorities (Debian's ca-certificates)")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="label of the image and annotation of its manifest")
    arguments = parser.parse_args()
    if ":" not in arguments.reference.rsplit("/", 1)[-1]:
        sys.exit("archive: the reference needs a tag, such as :0.1.0")
    time = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    labels = dict(label.split("=", 1) for label in arguments.label)
    with open(arguments.binary, "rb") as file:
        binary = file.read()
    with open(arguments.certificates, "rb") as file:
        certificates = file.read()
    archive, manifest = image(arguments.reference, binary, certificates, labels, time)
    with open(arguments.archive, "wb") as file:
        file.write(archive)
    print(manifest)


if __name__ == "__main__":
    main()
