from benchmarks.speed.flops import training_flops
from benchmarks.speed.synthetic import model_config
from sentiment_jax.models.registry import build_model
from sentiment_jax.training.objectives.classification import Classification


def encoder_products():
    """The textbook's multiply-adds for a text."""
    hidden, inner, layers, length = 32, 64, 3, 16
    a_token = 4 * hidden * hidden + 2 * hidden * inner + 2 * length * hidden
    head = hidden * hidden + 2 * hidden
    # of the last layer, keys and values of every token, all else for the first one
    last = 2 * hidden * hidden * (length + 1) + 2 * hidden * inner + 2 * length * hidden
    return (layers - 1) * length * a_token + last + head


ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}


def test_a_step_costs_what_the_textbook_says():
    for settings, products in (
        ({"name": "bert", "num_attention_heads": 2, **ENCODER}, encoder_products()),
        ({"name": "lstm"}, 16 * (100 + 64) * 4 * 64 + 64 * 128 + 128 * 2),  # two a word
    ):
        model = build_model(model_config(settings), vocab_size=50)
        assert training_flops(model, Classification(), (4, 16)) == 3 * 2 * 4 * products
