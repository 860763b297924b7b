"""Ask an embedded model where a shape is, without and with steering.

python examples/quickstart.py
"""

from importlib.resources import files

from transformers import AutoModelForImageTextToText, AutoProcessor

import adaptvis
from adaptvis.data.two_ds import two_ds_samples
from adaptvis.presets import load_model_presets

MODEL = str(files("adaptvis") / "assets/models/tiny-2ds-shortcut-seed1")


def main() -> None:
    processor = AutoProcessor.from_pretrained(MODEL)
    model = AutoModelForImageTextToText.from_pretrained(MODEL, dtype="float32").eval()
    sample = next(s for s in two_ds_samples(images_per_count=2) if s.kind == "where")
    prompt = f"USER: <image>\n{sample.question} ASSISTANT:"
    inputs = processor(images=sample.image, text=prompt, return_tensors="pt")
    print(f"{sample.question}  (right answer: {sample.answer})")

    def answer() -> str:
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return processor.batch_decode(new, skip_special_tokens=True)[0].strip()

    print("unsteered: ", answer())
    presets = load_model_presets(MODEL)
    for name in ("scalingvis", "scalingvis-text"):
        with adaptvis.steer(model, presets[name]) as handle:
            print(f"{name}: ", answer(), handle.last[0])


if __name__ == "__main__":
    main()
