"""The published forms of multilingual encoders, tiny: they load, train and predict here.

multilingual-e5-small and paraphrase-multilingual-MiniLM-L12-v2 are BERT with XLM-R's tokenizer and
more embeddings than it has tokens; mmBERT is ModernBERT with Gemma's tokenizer.
"""

import json

import golden
import pretrained
import pytest
import tokenizers
from runs import SMALL
from tokenizers import decoders, models, normalizers, processors, trainers

from configs import bert
from sentiment_jax.config.recipes import override
from sentiment_jax.data.dataset import SAMPLE
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.train import train
from sentiment_jax.training.trained_model import load_run

TEXTS = [
    *SAMPLE.read_text(encoding="utf-8").splitlines()[:200],
    *("Ein guter Film, wie schön", "Un film très agréable", "Очень хороший фильм", "这部电影很好")
    * 9,
]
OF_GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def train_gemma(texts):
    """A BPE on "▁" for spaces whose unknown characters are bytes; <bos> and <eos> around a text."""
    tokenizer = tokenizers.Tokenizer(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        limit_alphabet=60,
        special_tokens=[*OF_GEMMA, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for text in texts for word in text.split()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return tokenizer


FORMS = {  # model_type, tokenizer, what its config.json says besides the sizes
    "multilingual-e5-small": (
        "bert",
        lambda: pretrained.train_unigram(TEXTS, pretrained.OF_ROBERTA),
        {"tokenizer_class": "XLMRobertaTokenizer", "pad_token_id": 0, "torch_dtype": "float32"},
    ),
    "mmBERT-small": (
        "modernbert",
        lambda: train_gemma(TEXTS),
        {
            "position_embedding_type": "sans_pos",
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 160000.0, "rope_type": "default"},
            },
            **{"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 1, "mask_token_id": 4},
        },
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_multilingual_encoder_loads_trains_and_predicts(name, tmp_path):
    kind, make_tokenizer, own = FORMS[name]
    folder = pretrained.write_folder(tmp_path / name, kind, TEXTS)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    golden.change_config(folder, **own)
    config = override(
        bert.get_config(),
        {
            **{name: value for name, value in SMALL.items() if "model" not in name},
            **{"model.pretrained": str(folder), "data.source": "sample", "epochs": 1},
            **{"data.max_length": 24, "data.length_buckets": (), "data.limit": 80},
            **{"batch_size": 16, "eval_batch_size": 16, "linear_baseline": False},
        },
    )
    assert train(config, tmp_path / "run")["model"] == kind
    probabilities, warnings = predict([load_run(tmp_path / "run")], ["Schön", "Хорошо", "好"])
    assert probabilities.shape == (3, 2)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 400
