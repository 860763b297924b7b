"""Conversations about generated images, in LLaVA's format, for both stages of training.

python examples/normalized_checkpoint/data.py tutorial --images 1000

Stands in for LCS-558K and mix665k; data of your own needs a JSON file and a folder of images alone.
"""

import argparse
from pathlib import Path

from adaptvis.errors import AdaptVisError
from adaptvis.training.llava.data import write_two_ds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000, help="of each stage")
    arguments = parser.parse_args()
    for seed, stage in enumerate(("stage1", "stage2")):
        try:
            written = write_two_ds(
                arguments.folder / stage,
                images=arguments.images,
                questions_per_image=6,
                seed=seed,
            )
        except AdaptVisError as error:
            raise SystemExit(str(error)) from None
        print(f"{written.data}: {written.samples} conversations, images in {written.image_folder}")


if __name__ == "__main__":
    main()
