"""Small promises to users of transformers: its configurations, keyword values and words typed as prompts just work."""

import pytest
import torch
import transformers

from sam_hf import SamConfig, SamModel, SamPredictor, SamProcessor, SamVisionConfig, SamVisionModel
from sam_hf.model.prompt_preparation import PADDING, stack_points
from sam_hf.model.text_encoder import SamTokenizer

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
VISION = SMALL | {"output_channels": 16, "num_pos_feats": 8, "global_attn_indexes": [0]}


def stock_config():
    return transformers.SamConfig(
        vision_config=VISION,
        prompt_encoder_config={"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2},
    )


def test_stock_configurations_make_our_models():
    model = SamModel(stock_config()).eval()
    assert isinstance(model.config, SamConfig) and model.config.model_type == "sam"
    stock = transformers.SamModel(stock_config()).eval()
    model.load_state_dict(stock.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model(images).iou_scores, stock(images).iou_scores, rtol=1e-4, atol=1e-5)
    vision = SamVisionModel(transformers.SamVisionConfig(**VISION))
    assert isinstance(vision.config, SamVisionConfig)


def test_scale_none_is_metas_default():
    assert SamVisionConfig(scale=None).scale == 1.0


@pytest.mark.parametrize("vocab_size", [2048, 49408])
def test_control_words_are_words(vocab_size):
    tokenizer = SamTokenizer(vocab_size=vocab_size, context_length=32)
    for text in ("a <end_of_text> cat", "<start_of_text>", "<END_OF_TEXT> cup"):
        ids = tokenizer.encode(text)
        assert ids and max(ids) < tokenizer.start_id


def test_padding_labels_are_padding_whatever_the_coordinates():
    points = [[([[1.0, 2.0]], [1]), ([[1.0, 2.0], [3.0, 4.0]], [1, 0])]]
    _, labels = stack_points(points, 2, padding=0)
    assert labels.tolist() == [[[1, PADDING], [1, 0]]]


def test_damaged_weights_and_foreign_embeddings_are_refused(plain_checkpoint, tmp_path):
    predictor = SamPredictor.from_pretrained(plain_checkpoint, device="cpu")
    image = torch.randint(0, 255, (20, 30, 3), dtype=torch.uint8).numpy()
    embedding = predictor.encode(image)
    with torch.no_grad():
        predictor.model.vision_encoder.neck.conv1.weight.add_(1.0)
    with pytest.raises(ValueError, match="other encoder weights"):
        predictor.decode(embedding, points=[[3, 4]])
    with torch.no_grad():
        predictor.model.mask_decoder.iou_token.weight.fill_(float("nan"))
    predictor.model.save_pretrained(tmp_path)
    SamProcessor.from_pretrained(plain_checkpoint).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="iou_token.*not finite"):
        SamPredictor.from_pretrained(tmp_path, device="cpu")
