"""KerasHub's tasks that score classes, each of a small random backbone, with a preprocessor of its own."""

import functools
import io

import keras
import numpy as np

TEXTS = ["the quick brown fox", "a fox jumped", "the earth is round"]
WORDS = ["the", "quick", "brown", "fox", "a", "jumped", "earth", "is", "round"]
CLASSES = 3

_ENCODER = {"num_layers": 1, "hidden_dim": 4, "intermediate_dim": 8, "dropout": 0.0}
_ATTENTION = {**_ENCODER, "num_heads": 2}
_MIT = {
    "image_shape": (32, 32, 3),
    "num_layers": 2,
    "hidden_dims": [4, 8],
    "layerwise_depths": [1, 1],
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [2, 1],
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    "max_drop_path_rate": 0.1,
}
_RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 8],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
    "use_pre_activation": True,
}
_SMALL = {"image_shape": (16, 16, 3)}


def _pieces(**options):
    """A SentencePiece model of whole words."""
    import sentencepiece

    model = io.BytesIO()
    options = {"sentence_iterator": iter(TEXTS), "model_writer": model, "model_type": "WORD", **options}
    sentencepiece.SentencePieceTrainer.train(vocab_size=12, minloglevel=2, **options)
    return {"proto": model.getvalue()}


def _words(*special):
    return {"vocabulary": [*special, *WORDS]}


_BERT = functools.partial(_words, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ALBERT = functools.partial(
    _pieces,
    pad_id=0,
    unk_id=1,
    bos_id=2,
    eos_id=3,
    pad_piece="<pad>",
    unk_piece="<unk>",
    bos_piece="[CLS]",
    eos_piece="[SEP]",
    user_defined_symbols="[MASK]",
)
_DEBERTA = functools.partial(
    _pieces,
    pad_id=0,
    bos_id=1,
    eos_id=2,
    unk_id=3,
    pad_piece="[PAD]",
    bos_piece="[CLS]",
    eos_piece="[SEP]",
    unk_piece="[UNK]",
    user_defined_symbols="[MASK]",
)


def _bytes():
    merges = ["Ġ q", "u i", "c k", "ui ck", "Ġq uick", "Ġ f", "o x", "Ġf ox"]
    made = [merge.replace(" ", "") for merge in merges]
    pieces = ["<s>", "<pad>", "</s>", "<mask>", "Ġ", *"abcdefghijklmnopqrstuvwxyz", *made]
    return {"vocabulary": {piece: number for number, piece in enumerate(pieces)}, "merges": merges}


# The family → (options of its backbone, options of its tokenizer).
TEXT = {
    "Albert": ({**_ATTENTION, "embedding_dim": 4}, _ALBERT),
    "Bert": (_ATTENTION, _BERT),
    "DebertaV3": ({**_ATTENTION, "bucket_size": 4}, _DEBERTA),
    "DistilBert": (_ATTENTION, _BERT),
    "ESM": (_ATTENTION, functools.partial(_words, "<pad>", "<unk>", "<cls>", "<eos>", "<mask>")),
    "FNet": (_ENCODER, _ALBERT),
    "Roberta": (_ATTENTION, _bytes),
    "RoformerV2": ({**_ATTENTION, "head_size": 2}, _BERT),
    "XLMRoberta": (_ATTENTION, functools.partial(_pieces, unk_id=0, bos_id=1, eos_id=2)),
}

# The family → (the side of its images, options of its backbone, options of its task).
IMAGE = {
    "CSPNet": (
        16,
        {
            "stem_filters": 4,
            "stem_kernel_size": 3,
            "stem_strides": 1,
            "stackwise_depth": [1, 1],
            "stackwise_strides": [2, 2],
            "stackwise_num_filters": [4, 8],
            "block_type": "dark_block",
            "stage_type": "dark",
            **_SMALL,
        },
        {},
    ),
    "DeiT": (
        16,
        {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 4, "intermediate_dim": 8, **_SMALL},
        {},
    ),
    "DenseNet": (16, {"stackwise_num_repeats": [1, 1], "growth_rate": 4, **_SMALL}, {}),
    "EfficientNet": (
        16,
        {
            "stackwise_kernel_sizes": [3, 3],
            "stackwise_num_repeats": [1, 1],
            "stackwise_input_filters": [8, 8],
            "stackwise_output_filters": [8, 8],
            "stackwise_expansion_ratios": [1, 2],
            "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
            "stackwise_strides": [1, 2],
            "stackwise_block_types": ["fused", "unfused"],
            "stackwise_width_coefficients": [1.0, 1.0],
            "stackwise_depth_coefficients": [1.0, 1.0],
            "input_shape": (16, 16, 3),
        },
        {},
    ),
    "HGNetV2": (
        32,
        {
            "depths": [1, 1],
            "embedding_size": 4,
            "hidden_sizes": [8, 8],
            "stem_channels": [3, 4, 4],
            "hidden_act": "relu",
            "use_learnable_affine_block": False,
            "stackwise_stage_filters": [(4, 4, 8, 1, 1, 3), (8, 4, 8, 1, 1, 3)],
            "apply_downsample": [False, True],
            "use_lightweight_conv_block": [False, False],
            "image_shape": (32, 32, 3),
        },
        {"head_filters": 8},
    ),
    "MiT": (32, _MIT, {}),
    "MobileNet": (
        16,
        {
            "stackwise_expansion": [[8, 8]],
            "stackwise_num_blocks": [2],
            "stackwise_num_filters": [[8, 8]],
            "stackwise_kernel_size": [[3, 3]],
            "stackwise_num_strides": [[2, 1]],
            "stackwise_se_ratio": [[None, 0.25]],
            "stackwise_activation": [["relu", "hard_swish"]],
            "stackwise_padding": [[1, 1]],
            "output_num_filters": 8,
            "input_activation": "hard_swish",
            "output_activation": "hard_swish",
            "input_num_filters": 8,
            "depthwise_filters": 8,
            "depthwise_stride": 1,
            "depthwise_residual": False,
            "last_layer_filter": 8,
            "squeeze_and_excite": None,
            **_SMALL,
        },
        {"num_features": 8},
    ),
    "MobileNetV5": (
        16,
        {
            "stackwise_block_types": [["er"]],
            "stackwise_num_blocks": [1],
            "stackwise_num_filters": [[8]],
            "stackwise_strides": [[2]],
            "stackwise_act_layers": [["relu"]],
            "stackwise_exp_ratios": [[2.0]],
            "stackwise_se_ratios": [[0.0]],
            "stackwise_dw_kernel_sizes": [[0]],
            "stackwise_dw_start_kernel_sizes": [[0]],
            "stackwise_dw_end_kernel_sizes": [[0]],
            "stackwise_exp_kernel_sizes": [[3]],
            "stackwise_pw_kernel_sizes": [[1]],
            "stackwise_num_heads": [[0]],
            "stackwise_key_dims": [[0]],
            "stackwise_value_dims": [[0]],
            "stackwise_kv_strides": [[0]],
            "stackwise_use_cpe": [[False]],
            "use_msfa": False,
            "stem_size": 4,
            **_SMALL,
        },
        {"head_hidden_size": 8},
    ),
    "ResNet": (16, {**_RESNET, **_SMALL}, {}),
    "SwinTransformer": (
        32,
        {"image_shape": (32, 32, 3), "embed_dim": 4, "depths": (1, 1), "num_heads": (1, 2), "window_size": 2},
        {},
    ),
    "VGG": (
        16,
        {"stackwise_num_repeats": [1], "stackwise_num_filters": [4], **_SMALL},
        {"pooling_hidden_dim": 8},
    ),
    "ViT": (16, {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 4, "mlp_dim": 8, **_SMALL}, {}),
    "Xception": (16, {"stackwise_conv_filters": [[4, 8], [8, 8]], "stackwise_pooling": [True, False], **_SMALL}, {}),
}
SEGMENTERS = ("DeepLabV3", "SegFormer")
NAMES = [
    *(f"{name}ProteinClassifier" if name == "ESM" else f"{name}TextClassifier" for name in TEXT),
    *(f"{name}ImageClassifier" for name in IMAGE),
    *(f"{name}ImageSegmenter" for name in SEGMENTERS),
]
# Their constructors take no activation: they give logits.
WITHOUT_ACTIVATION = ("MobileNetImageClassifier", "MobileNetV5ImageClassifier", "SegFormerImageSegmenter")


def make(name, *, activation=None, dtype=None, seed=0, **options):
    """(task, raw inputs of it) for the name of a class of `keras_hub.models`; `dtype` is that of an image backbone."""
    import keras_hub

    models, rng = keras_hub.models, np.random.default_rng(seed)
    if activation is not None:
        options["activation"] = activation
    family = name.split("TextC")[0].split("ImageC")[0].split("ImageS")[0].removesuffix("ProteinClassifier")
    if family in TEXT:
        backbone, tokenizer = _encoder(models, family)
        preprocessor = getattr(models, f"{name}Preprocessor")(tokenizer, sequence_length=8)
        data = TEXTS
    else:
        backbone, side, more = _image_backbone(models, family, dtype)
        options = {**more, **options}
        converter = getattr(models, f"{name}Preprocessor").image_converter_cls
        converter = converter(image_size=(side, side), scale=1 / 255.0, offset=-0.5)
        preprocessor = getattr(models, f"{name}Preprocessor")(converter)
        data = rng.integers(0, 256, size=(3, side + 4, side + 4, 3)).astype("float32")
    task = getattr(models, name)(backbone=backbone, preprocessor=preprocessor, num_classes=CLASSES, **options)
    scale = 0.02 if family in ("ResNet", "DeepLabV3") else 0.3  # of 64 channels, where more makes a softmax 0 or 1
    for variable in task.trainable_variables:
        variable.assign(variable + keras.ops.cast(rng.normal(size=variable.shape, scale=scale), variable.dtype))
    return task, data


def _encoder(models, family):
    options, vocabulary = TEXT[family]
    tokenizer = getattr(models, f"{family}Tokenizer")(**vocabulary())
    return getattr(models, f"{family}Backbone")(vocabulary_size=tokenizer.vocabulary_size(), **options), tokenizer


def _image_backbone(models, family, dtype):
    if family == "DeepLabV3":
        options = {"image_encoder": models.ResNetBackbone(**_RESNET, image_shape=(32, 32, 3)), "upsampling_size": 2}
        options |= {"spatial_pyramid_pooling_key": "P3", "low_level_feature_key": "P2", "dilation_rates": [1]}
        return models.DeepLabV3Backbone(**options, projection_filters=4, image_shape=(32, 32, 3)), 32, {}
    if family == "SegFormer":
        return models.SegFormerBackbone(image_encoder=models.MiTBackbone(**_MIT), projection_filters=4), 32, {}
    side, options, more = IMAGE[family]
    return getattr(models, f"{family}Backbone")(**options, dtype=dtype), side, more
