"""Inpainting: predict what is missing from a hole.

  python -m jssl.train --config=inpainting:digits --workdir=runs/inpainting

digits, 15 epochs on two CPU cores: 73 s, kNN 0.950; tuned for such short runs.

The loss, the holes and the rim of imagenet2012 are the paper's (Pathak et al.,
2016), scaled to images of 224 pixels; its AlexNet and Adam are replaced by a
ResNet and AdamW, which is not a published recipe.
"""

from jssl.config import adamw, crop_and_flip, from_table

get_config = from_table({
    "default": {
        "method": {
            "name": "inpainting",
            "hole": "region",
            "share": 0.25,
            "overlap": 1,
            "overlap_weight": 1.0,
            "decoder_width": 32,
        },
        "augment": crop_and_flip(scale=(0.2, 1.0)),
        "optimizer": adamw(
            learning_rate=1e-3, weight_decay=1e-4, warmup_epochs=1
        ),
    },
    "imagenet2012": {
        "epochs": 100.0,
        "method.overlap": 7,
        "method.overlap_weight": 10.0,
        "method.decoder_width": 64,
    },
    "digits": {
        "epochs": 15.0,
        "batch_size": 64,
        "eval.every_epochs": 3.0,
        "method.overlap": 0,
        "augment": {"name": "digits"},
        "optimizer.learning_rate": 8e-3,
    },
})
