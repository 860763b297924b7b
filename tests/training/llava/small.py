"""Settings that make a tiny recipe small enough for a test."""

SMALL = (
    "stages.stage-1.data.images=10",
    "stages.stage-2.data.images=10",
    "stages.stage-1.global_batch=4",
    "stages.stage-2.global_batch=4",
    "stages.stage-1.per_device_batch=2",
    "stages.stage-2.per_device_batch=2",
    "stages.stage-1.steps=2",
    "stages.stage-2.steps=5",
    "stages.stage-1.save_every=1",
    "stages.stage-2.save_every=2",
)
